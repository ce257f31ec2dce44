"""Groups that Ray places: a real cluster of two nodes, all of it on this machine."""
