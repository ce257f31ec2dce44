"""Finished videos and stills, from a folder or a bucket."""
