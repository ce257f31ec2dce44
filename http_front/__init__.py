"""The HTTP front: routes, request checks and images. It never imports torch."""
