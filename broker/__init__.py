"""The broker: it knows jobs, owns the journal, and imports neither torch nor aiohttp."""
