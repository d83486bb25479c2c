"""Matrix products against stored weights. Called by the models; every large weight lies as [outputs..., inputs...].

That is the order of the checkpoints, so that loading is a plain copy, and one that GEMM libraries read directly.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax


def project(spec: str, x: Array, weight: Array, bias: Array | None = None, dtype: jnp.dtype | None = None) -> Array:
    """einsum(spec, x, weight) + bias, summed in float32, in `dtype` (default: x's). float32 is never cut to TF32.

    x: [T, inputs...], weight: [outputs..., inputs...] → [T, outputs...]
    """
    precision = lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    out_dtype = dtype or x.dtype

    def product(x: Array, weight: Array) -> Array:
        return jnp.einsum(spec, x, weight, precision=precision, preferred_element_type=out_dtype)

    # XLA's CPU compiler transposes a second operand of more than two dimensions at every step (one token times 8
    # million weights then takes 18 times as long), but reads a first operand, or two dimensions, as they lie.
    def on_cpu(x: Array, weight: Array) -> Array:
        if (outputs := weight.ndim - x.ndim + 1) == 1:
            return lax.dot_general(
                x.reshape(len(x), -1), weight.reshape(len(weight), -1), (((1,), (1,)), ((), ())),
                precision=precision, preferred_element_type=out_dtype,
            )  # fmt: skip
        if x.size > weight.size:  # then it is the result that should not be transposed
            return product(x, weight)
        inputs = tuple(range(outputs, weight.ndim)), tuple(range(1, x.ndim))
        out = lax.dot_general(weight, x, (inputs, ((), ())), precision=precision, preferred_element_type=out_dtype)
        return jnp.moveaxis(out, -1, 0)

    out = lax.platform_dependent(x, weight, cpu=on_cpu, default=product)
    return out if bias is None else out + bias
