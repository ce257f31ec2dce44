"""Groups that a Ray cluster places."""
