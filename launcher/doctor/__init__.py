"""`wan doctor` and `launch.py --check`: what keeps a server from starting."""
