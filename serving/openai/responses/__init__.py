"""OpenAI's Responses API. `endpoints.py` has the routes."""
