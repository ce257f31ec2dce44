"""The launcher: it knows processes. `launch.py` is its command."""
