"""The miniature model of `--demo`, built on the spot."""
