"""The CUDA kernel of few tokens for Hopper: bound by reading the weight, with norm, gate and residual in one kernel.

Called by matmul/__init__.py; the kernel is pallas_kernels/cuda/matmul_few_tokens.cu. Of a norm it multiplies the gains
onto the tokens, which rounds, and the scale onto the sums. float16 may not hold tokens before their scale: there XLA
takes the norm.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pallas_kernels import native
from pallas_kernels.cuda import build
from pallas_kernels.matmul.reference import normalised
from pallas_kernels.matmul.tuning import weight_tiles

HOPPER = "90a"
TOKENS = (16, 32)  # that the kernel is compiled for; of the largest at most
PANEL = 64  # inputs that are copied at once


def supports(x: Array, weight: Array, dtype: jnp.dtype) -> bool:
    """Whether the kernel takes x [T, inputs...] and a weight [outputs..., inputs...], with a gate or without, with a
    result in `dtype`, on this machine's GPU."""
    least = 1 if native.RECORDED else 2  # of one token only what starts early is known to gain
    return least <= x.shape[0] <= TOKENS[-1] and fits(x, weight, dtype)


def fits(x: Array, weight: Array, dtype: jnp.dtype) -> bool:
    """What `supports` wants of anything but the number of tokens, which cuda_gated.py's kernel wants as well."""
    inputs = x.size // x.shape[0]
    types = x.dtype == weight.dtype == dtype and x.dtype.name in build.ELEMENTS
    sizes = inputs % PANEL == 0 and weight.size // inputs % 16 == 0
    return types and sizes and build.architecture() == HOPPER


def product(
    x: Array,  # [T, E]
    weight: Array,  # [C, F, E]; C = 2 with an activation: gate, then up
    norm: Array | None,  # [E]
    residual: Array | None,  # [T, F]
    *,
    eps: float,
    dtype: jnp.dtype,
) -> Array:  # [T, F]
    """See reference.py. With C = 2 the activation is silu."""
    (T, E), (C, F, _) = x.shape, weight.shape
    if norm is not None and (x.dtype == jnp.float16 or norm.dtype != x.dtype):  # the kernel's norm is of x's dtype
        x, norm = normalised(x, norm, eps), None
    target = build.recorded_target("matmul_few_tokens", **constants(x.dtype.name, T, C, F, E, norm is not None))
    optional = [array.astype(x.dtype) for array in (norm, residual) if array is not None]
    call = jax.ffi.ffi_call(target, jax.ShapeDtypeStruct((T, F), dtype))
    return call(x, weight, *optional, eps=np.float32(eps))


def constants(element: str, tokens: int, parts: int, outputs: int, inputs: int, normed: bool) -> dict[str, int | str]:
    """What the kernel is compiled with."""
    most = next(size for size in TOKENS if tokens <= size)
    t = weight_tiles(most, parts * outputs, inputs, build.multiprocessors())
    return {
        "ELEMENT": build.ELEMENTS[element], "AT_ONCE": most, "WARPGROUPS": t.tall, "PANELS_EACH": t.panels,
        "STAGES_AHEAD": t.stages, "SPLIT_OVER": t.split, "PER_SM": t.per_sm, "WITH_GATE": parts - 1,
        "WITH_NORM": int(normed),
    }  # fmt: skip
