"""The API under `/video`."""
