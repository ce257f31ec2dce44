"""Live updates: job events, previews and the status cache."""
