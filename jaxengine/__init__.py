"""jaxengine: serves large language models with JAX."""
