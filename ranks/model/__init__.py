"""The models: weights, forward passes, memory costs."""
