"""What flows between processes: jobs, messages, and the sockets that carry them."""
