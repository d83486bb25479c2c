"""The product of tokens with a stored weight, with what stands before and after it in a layer.

The one entry of the op: `matmul`. Called by jaxengine/layers/linear.py where arrays are whole on their device: on one
device, or inside shard_map (shapes are per shard). Runs cpu.py on a CPU, on a GPU one_token.py for one token, on Hopper
cuda.py for a few and cuda_gated.py for some hundred with an activation, else reference.py, XLA's product; `has_kernel`
says whether it is not that, for callers who can do better than the reference.
"""

import math

import jax.numpy as jnp
from jax import Array

from pallas_kernels.backend import Backend, resolve
from pallas_kernels.cpu import build as cpu_build
from pallas_kernels.matmul import cpu, cuda, cuda_gated, one_token, reference
from pallas_kernels.matmul.reference import ACTIVATIONS

__all__ = ["ACTIVATIONS", "has_kernel", "matmul"]


def matmul(
    x: Array,  # [T, inputs...]
    weight: Array,  # [outputs..., inputs...]; with an activation [2, F, inputs...]: gate, then up
    *,
    norm: tuple[Array, float] | None = None,  # weight [inputs...] and epsilon of an RMS norm of x
    activation: str | None = None,  # one of ACTIVATIONS
    residual: Array | None = None,  # [T, outputs...]
    dtype: jnp.dtype | None = None,  # of the result; default: x's
    backend: Backend | None = None,
) -> Array:
    """residual + norm(x) · weight, or residual + silu(gate) · up of it, each part where it is given → [T, outputs...].

    Sums are taken in float32; the normalised x, the product, the activation and the sum with the residual each round to
    their dtype. On a CPU a token's result is the same to the bit in any company.
    """
    T, inputs = x.shape[0], x.shape[1:]
    outputs = weight.shape[: weight.ndim - len(inputs)]
    if weight.shape[len(outputs) :] != inputs:
        raise ValueError(f"x {x.shape} and weight {weight.shape} do not share their inputs")
    if activation is not None:
        if activation not in ACTIVATIONS:
            raise ValueError(f"unknown activation {activation!r}; known are {', '.join(ACTIVATIONS)}")
        if len(outputs) != 2 or outputs[0] != 2:
            raise ValueError(f"an activation wants a weight [2, F, inputs...], got {weight.shape}")
        outputs = outputs[1:]
    size = math.prod(outputs)
    dtype = dtype or x.dtype
    chosen = resolve(backend, _offered(x, weight, dtype, activation is not None), "matmul")
    hopper = cuda if cuda.supports(x, weight, dtype) else cuda_gated
    implementations = {"cpu": cpu, "cuda": hopper, "pallas": one_token, "reference": reference}
    product = implementations[chosen].product
    out = product(
        x.reshape(T, -1),
        weight.reshape(-1, size, math.prod(inputs)),
        None if norm is None else norm[0].reshape(-1),
        None if residual is None else residual.reshape(T, size),
        eps=0.0 if norm is None else norm[1],
        dtype=dtype,
    )
    return out.reshape(T, *outputs)


def has_kernel(x: Array, weight: Array, dtype: jnp.dtype, *, gated: bool = False) -> bool:
    """Whether `matmul` runs a kernel of its own here, with a result in `dtype`; gated: with an activation."""
    return resolve(None, _offered(x, weight, dtype, gated), "matmul") != "reference"


def _offered(x: Array, weight: Array, dtype: jnp.dtype, gated: bool) -> tuple[Backend, ...]:
    fits = all(kind in cpu_build.DTYPES for kind in (x.dtype, weight.dtype, dtype))
    native: tuple[Backend, ...] = ("cpu",) if fits else ()
    on_hopper = cuda.supports(x, weight, dtype) or (gated and cuda_gated.suits(x, weight, dtype))
    hopper: tuple[Backend, ...] = ("cuda",) if on_hopper else ()
    one: tuple[Backend, ...] = ("pallas",) if one_token.suits(x, weight, dtype) else ()
    return (*native, *hopper, *one, "reference")
