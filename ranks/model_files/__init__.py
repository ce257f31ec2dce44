"""What lies on disk: recognises a model, checks its files, and finds its weights. No torch."""
