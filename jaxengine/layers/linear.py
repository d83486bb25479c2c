"""Matrix products against stored weights. Called by the models; every large weight lies as [outputs..., inputs...].

That is the order of the checkpoints, so that loading is a plain copy, and one that GEMM libraries read directly.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax


def project(spec: str, x: Array, weight: Array, bias: Array | None = None, dtype: jnp.dtype | None = None) -> Array:
    """einsum(spec, x, weight) + bias, summed in float32, in `dtype` (default: x's). float32 is never cut to TF32."""
    precision = lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    out = jnp.einsum(spec, x, weight, precision=precision, preferred_element_type=dtype or x.dtype)
    return out if bias is None else out + bias
