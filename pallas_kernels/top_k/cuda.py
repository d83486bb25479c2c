"""The CUDA kernel of `thresholds`: a row lies in the shared memory of eight thread blocks, which search it together.

Called by top_k/__init__.py; the kernel is pallas_kernels/cuda/top_k_thresholds.cu, with the search of bracket.py. One
row is spread over eight multiprocessors, and is read once however flat it is.
"""

import jax
import jax.numpy as jnp
from jax import Array

from pallas_kernels.cuda import build

MOST = 350_000  # values of a row that fit


def supports(logits: Array) -> bool:
    """Whether rows of the logits [S, V] fit."""
    return logits.shape[1] <= MOST


def thresholds(logits: Array, temperature: Array, top_k: Array, top_p: Array, min_p: Array) -> Array:
    """[S, V] float32 and [S] settings → [S] float32; see the package."""
    result = jax.ShapeDtypeStruct(logits.shape[:1], jnp.float32)
    call = jax.ffi.ffi_call(build.target("top_k_thresholds"), result)
    return call(logits, temperature, top_k, top_p, min_p)
