"""Root-mean-square normalisation (Zhang and Sennrich, arXiv:1910.07467). Called by every model."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """x: [..., E], weight: [E] → [..., E] in x's dtype; computed in float32 with one rounding at the end."""
    squares = jnp.sum(jnp.square(x.astype(jnp.float32)), axis=-1, keepdims=True)
    scale = lax.rsqrt(squares / x.shape[-1] + eps)
    return (x.astype(jnp.float32) * scale * weight.astype(jnp.float32)).astype(x.dtype)
