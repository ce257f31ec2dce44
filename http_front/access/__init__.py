"""Access control: API keys, rate limits and origin checks."""
