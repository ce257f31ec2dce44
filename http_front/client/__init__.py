"""The Python client and the `wan` commands over HTTP."""
