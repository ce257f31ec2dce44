"""The miniature models of `--demo`, made on the spot."""
