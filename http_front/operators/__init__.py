"""What operators ask of the server: whether it is well, and to clean up or to drain."""
