"""The product on a CPU: binding of the handler `matmul` in pallas_kernels/cpu. Called by the package."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pallas_kernels.cpu import build


def product(
    x: Array,  # [T, E]
    weight: Array,  # [C, F, E]; C = 2 with an activation: gate, then up
    norm: Array | None,  # [E]
    residual: Array | None,  # [T, F]
    *,
    eps: float,
    dtype: jnp.dtype,
) -> Array:  # [T, F]
    """See reference.py; all of build.DTYPES. With C = 2 the activation is silu."""
    more = [] if norm is None else [norm.astype(jnp.float32)]
    more += [] if residual is None else [residual.astype(dtype)]
    call = jax.ffi.ffi_call(build.target("matmul"), jax.ShapeDtypeStruct((x.shape[0], weight.shape[1]), dtype))
    return call(x, weight, *more, norm=norm is not None, residual=residual is not None, eps=np.float32(eps))
