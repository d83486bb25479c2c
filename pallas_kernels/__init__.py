"""Kernels for serving language models from a pool of key/value pages.

One folder per op, each with the same anatomy: `__init__.py` the public function, `reference.py` the specification in
plain jax.numpy (also the CPU implementation), Pallas kernels beside it, `tuning.py` the block sizes. Imports jax and
numpy only.
"""
