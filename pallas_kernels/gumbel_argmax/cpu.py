"""The op on a CPU: binding of the handler `gumbel_argmax` in pallas_kernels/cpu. Called by the package."""

import jax
import jax.numpy as jnp
from jax import Array

from pallas_kernels.cpu import build


def gumbel_argmax(logits: Array, temperature: Array, keep: Array | None, seed: Array, position: Array) -> Array:
    """See the package. Logarithms differ from XLA's in the last bit, so that a near tie may fall the other way."""
    call = jax.ffi.ffi_call(build.target("gumbel_argmax"), jax.ShapeDtypeStruct(logits.shape[:1], jnp.int32))
    return call(logits, temperature, seed, position, *([] if keep is None else [keep]))
