"""The API under `/v1`, for clients of OpenAI's Videos API."""
