"""The HTTP front: it knows HTTP and images, and imports no torch."""
