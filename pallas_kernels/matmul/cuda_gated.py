"""The CUDA kernel of gate and up of some hundred tokens for Hopper: silu(gate) · up in the product's own kernel.

Called by matmul/__init__.py; the kernel is pallas_kernels/cuda/matmul_gated.cu. A norm is XLA's, in front of it.
"""

import jax
import jax.numpy as jnp
from jax import Array

from pallas_kernels.cuda import build
from pallas_kernels.matmul.cuda import fits
from pallas_kernels.matmul.reference import normalised
from pallas_kernels.matmul.tuning import gated_half, pays_to_gate


def suits(x: Array, weight: Array, dtype: jnp.dtype) -> bool:
    """Whether the kernel takes x [T, inputs...] and a weight [2, F, inputs...], with a result in `dtype`, on this
    machine's GPU, and is the faster one."""
    inputs = x.size // x.shape[0]
    return fits(x, weight, dtype) and pays_to_gate(x.shape[0], weight.size // (2 * inputs), build.multiprocessors())


def product(
    x: Array,  # [T, E]
    weight: Array,  # [2, F, E]: gate, then up
    norm: Array | None,  # [E]
    residual: Array | None,  # [T, F]
    *,
    eps: float,
    dtype: jnp.dtype,
) -> Array:  # [T, F]
    """See reference.py; the activation is silu."""
    if norm is not None:
        x = normalised(x, norm, eps)
    target = build.recorded_target("matmul_gated", **constants(x.dtype.name, x.shape[0], weight.shape[1]))
    out = jax.ffi.ffi_call(target, jax.ShapeDtypeStruct((x.shape[0], weight.shape[1]), dtype))(x, weight)
    return out if residual is None else residual.astype(dtype) + out


def constants(element: str, tokens: int, outputs: int) -> dict[str, int | str]:
    """What the kernel is compiled with."""
    processors = build.multiprocessors()
    half = gated_half(tokens, outputs, processors)
    return {"ELEMENT": build.ELEMENTS[element], "HALF": half, "PROCESSORS": processors}
