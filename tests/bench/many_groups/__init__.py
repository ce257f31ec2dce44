"""Thousands of stub groups on one broker over real sockets, and more in a simulation."""
