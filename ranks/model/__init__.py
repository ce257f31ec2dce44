"""The models: their weights, their forward passes, what they cost in memory."""
