"""The Ray engine, on a real cluster of two nodes on this machine."""
