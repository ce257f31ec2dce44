"""The broker: jobs, their queue and their journal. It imports neither torch nor aiohttp."""
