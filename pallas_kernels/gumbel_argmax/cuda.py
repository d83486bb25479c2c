"""The CUDA kernel of gumbel_argmax: a row by eight thread blocks, noise only where it can decide.

Called by gumbel_argmax/__init__.py; the kernel is pallas_kernels/cuda/gumbel_argmax.cu.
"""

import jax
import jax.numpy as jnp
from jax import Array

from pallas_kernels.cuda import build


def gumbel_argmax(logits: Array, temperature: Array, keep: Array | None, seed: Array, position: Array) -> Array:
    """See the package."""
    target = build.target("gumbel_argmax")
    result = jax.ShapeDtypeStruct(logits.shape[:1], jnp.int32)
    return jax.ffi.ffi_call(target, result)(logits, temperature, seed, position, *(() if keep is None else (keep,)))
