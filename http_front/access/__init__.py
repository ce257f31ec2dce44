"""Who may use the server: API keys, rates, origins."""
