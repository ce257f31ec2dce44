"""The Python client and the `wan` commands that use it."""
