"""OpenAI's endpoints, with vLLM's extra fields: one file per endpoint family."""
