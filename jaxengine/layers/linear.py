"""Matrix products against stored weights. Called by the models; every large weight is laid out [outputs..., inputs...].

That is the order of the checkpoints (loading is a plain copy) and the one that GEMM libraries read directly, fp8 ones included.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax


def project(spec: str, x: Array, weight: Array, bias: Array | None = None, dtype: jnp.dtype | None = None) -> Array:
    """einsum(spec, x, weight) + bias, summed in float32 and given in `dtype` (default: x's). float32 inputs stay exact float32."""
    precision = lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    out = jnp.einsum(spec, x, weight, precision=precision, preferred_element_type=dtype or x.dtype)
    return out if bias is None else out + bias
