"""The durable state of the server: one SQLite file."""
