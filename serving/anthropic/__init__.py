"""Anthropic's endpoints, over the same chat core as OpenAI's."""
