"""Signed calls to a `callback_url` when a job ends."""
