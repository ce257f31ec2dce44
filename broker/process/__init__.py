"""What every process needs at its start: logging, and an end with its parent."""
