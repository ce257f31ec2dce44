"""Webhooks: signed requests to a job's `callback_url` when the job ends."""
