"""`wan doctor` and `launch.py --check`: checks of this machine before a server starts."""
