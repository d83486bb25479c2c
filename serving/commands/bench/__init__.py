"""`jaxengine bench …`: measurements with vLLM's flags, definitions and JSON keys."""
