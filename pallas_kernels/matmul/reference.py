"""The specification in plain jnp. Called by matmul/__init__.py."""

import jax
import jax.numpy as jnp
from jax import Array, lax

ACTIVATIONS = ("silu", "swish")  # two names of the only one


def product(
    x: Array,  # [T, E]
    weight: Array,  # [C, F, E]; C = 2 with an activation: gate, then up
    norm: Array | None,  # [E]
    residual: Array | None,  # [T, F]
    *,
    eps: float,
    dtype: jnp.dtype,
) -> Array:  # [T, F]
    """See the package. Two dimensions a side: XLA's CPU compiler reads those as they lie."""
    if norm is not None:
        x = normalised(x, norm, eps)
    precision = lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    C, F, E = weight.shape
    out = lax.dot_general(
        x, weight.reshape(C * F, E), (((1,), (1,)), ((), ())), precision=precision, preferred_element_type=dtype
    ).reshape(-1, C, F)
    out = out[:, 0] if C == 1 else jax.nn.silu(out[:, 0]) * out[:, 1]
    return out if residual is None else residual.astype(dtype) + out


def normalised(x: Array, norm: Array, eps: float) -> Array:
    """x: [T, E], norm: [E] → [T, E]: the RMS norm, in float32 with one rounding at the end."""
    mean = jnp.mean(jnp.square(x.astype(jnp.float32)), axis=-1, keepdims=True)
    return (x.astype(jnp.float32) * lax.rsqrt(mean + eps) * norm.astype(jnp.float32)).astype(x.dtype)
