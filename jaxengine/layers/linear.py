"""Matrix products against stored weights. Called by the models; every large weight lies as [outputs..., inputs...].

That is the order of the checkpoints, so that loading is a plain copy, and one that GEMM libraries read directly. Where
arrays are whole on their device a kernel takes the product, if there is one for it (pallas_kernels/matmul), with the
norm before it and the residual behind it; else it is XLA's, which GSPMD splits as the weight lies.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import AxisType

from jaxengine.layers.norm import rms_norm
from pallas_kernels.matmul import ACTIVATIONS as KERNEL_ACTIVATIONS
from pallas_kernels.matmul import has_kernel, matmul

_gelu_tanh = functools.partial(jax.nn.gelu, approximate=True)  # which has had many names

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_pytorch_tanh": _gelu_tanh,
    "gelu_new": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "relu": jax.nn.relu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
}


def project(
    spec: str,
    x: Array,
    weight: Array,
    bias: Array | None = None,
    dtype: jnp.dtype | None = None,
    *,
    norm: tuple[Array, float] | None = None,  # weight and epsilon of an RMS norm of x
    activation: str | None = None,  # one of ACTIVATIONS, for a weight of [2, F, inputs...]: gate, then up
    residual: Array | None = None,  # of the result's shape
) -> Array:
    """residual + activation(einsum(spec, norm(x), weight) + bias), each part where it is given; summed in float32, in
    `dtype` (default: x's). float32 is never cut to TF32.

    x: [T, inputs...], weight: [outputs..., inputs...] → [T, outputs...], or [T, F] with an activation, which is
    activation(gate) · up.
    """
    out_dtype = dtype or x.dtype
    complete = bias is None and (activation is None or activation in KERNEL_ACTIVATIONS)  # a kernel does it all
    if _whole() and has_kernel(x, weight, out_dtype, gated=complete and activation is not None):
        if complete:
            return matmul(x, weight, norm=norm, activation=activation, residual=residual, dtype=out_dtype)
        out = matmul(x, weight, norm=norm, dtype=out_dtype)
    else:
        out = _product(spec, x if norm is None else rms_norm(x, *norm), weight, out_dtype)
    out = out if bias is None else out + bias
    out = out if activation is None else ACTIVATIONS[activation](out[:, 0]) * out[:, 1]
    return out if residual is None else residual + out


def _whole() -> bool:
    """Whether arrays are whole on their device where this is traced: on a single one, or inside shard_map."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return jax.device_count() == 1
    return mesh.size == 1 or all(kind == AxisType.Manual for kind in mesh.axis_types)


def _product(spec: str, x: Array, weight: Array, out_dtype: jnp.dtype) -> Array:
    precision = lax.Precision.HIGHEST if x.dtype == jnp.float32 else None

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

    return lax.platform_dependent(x, weight, cpu=on_cpu, default=product)
