"""Root-mean-square normalisation (Zhang and Sennrich, arXiv:1910.07467). Called by every model."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """x: [..., E], weight: [E] → [..., E] in x's dtype; computed in float32 with one rounding at the end."""
    wide = x.astype(jnp.float32)
    scale = lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    return (wide * scale * weight.astype(jnp.float32)).astype(x.dtype)
