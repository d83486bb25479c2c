"""The CUDA path: sources in CUDA C++, built with nvcc when an op is first traced, called through jax.ffi.

One .cu file an op, `build.py` makes libraries of them; each op's own `cuda.py` binds them. Nothing here runs at import.
"""
