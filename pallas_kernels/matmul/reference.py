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
        mean = jnp.mean(jnp.square(x.astype(jnp.float32)), axis=-1, keepdims=True)
        x = (x.astype(jnp.float32) * lax.rsqrt(mean + eps) * norm.astype(jnp.float32)).astype(x.dtype)
    precision = lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    C, F, E = weight.shape
    out = lax.dot_general(
        x, weight.reshape(C * F, E), (((1,), (1,)), ((), ())), precision=precision, preferred_element_type=dtype
    ).reshape(-1, C, F)
    out = out[:, 0] if C == 1 else jax.nn.silu(out[:, 0]) * out[:, 1]
    return out if residual is None else residual.astype(dtype) + out
