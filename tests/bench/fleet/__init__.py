"""A fleet of stub groups on one broker, over real sockets, and a larger one in a simulation."""
