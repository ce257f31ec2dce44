"""A stub of CANN."""
