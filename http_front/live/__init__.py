"""What changes while a client watches: events, previews, cached statuses."""
