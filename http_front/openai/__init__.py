"""The API under `/v1`, compatible with OpenAI's Videos API."""
