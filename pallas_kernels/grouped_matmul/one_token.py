"""The CUDA kernels of a single token's experts, whose weights all processors read in even shares.

Called by grouped_matmul/__init__.py; the kernels are pallas_kernels/cuda/experts_one_token.cu. A tile of the Pallas
kernel takes 16 tokens and 32 outputs: of eight experts that makes too few programs to fill a device evenly.
"""

import jax
import jax.numpy as jnp
from jax import Array

from pallas_kernels.cuda import build
from pallas_kernels.grouped_matmul.activation import Activation

INSIDE = 3072  # features inside an expert, at most
SHARED = 48 << 10  # bytes of shared memory for what goes into either product
BLOCKS = 2  # thread blocks of a multiprocessor


def supports(
    x: Array, experts: Array, gate_up: Array, *, activation: Activation, weigh_inputs: bool, biased: bool
) -> bool:
    """Whether the kernels take x [T, E], experts [T, k] and gate_up [X, 2, F, E]."""
    (T, E), k, F = x.shape, experts.shape[1], gate_up.shape[2]
    plain = activation in ("silu", "swish") and not weigh_inputs and not biased
    types = x.dtype == gate_up.dtype and x.dtype.name in build.ELEMENTS
    sizes = T == 1 and E % 8 == F % 8 == 0 and F <= INSIDE and 2 * max(E, k * F) <= SHARED
    return plain and types and sizes


def mlp(x: Array, experts: Array, weights: Array, gate_up: Array, down: Array) -> Array:
    """x: [1, E], experts and weights: [1, k], gate_up: [X, 2, F, E], down: [X, E, F] → [1, E]. See the package."""
    (X, _, F, E), k = gate_up.shape, experts.shape[1]
    target = build.recorded_target("experts_one_token", **constants(x.dtype.name, k, X, E, F))
    results = jax.ShapeDtypeStruct((1, E), x.dtype), jax.ShapeDtypeStruct((k, F), x.dtype)
    out, _ = jax.ffi.ffi_call(target, results)(x, experts, weights.astype(jnp.float32), gate_up, down)
    return out


def constants(element: str, pairs: int, experts: int, hidden: int, mlp: int) -> dict[str, int | str]:
    """What the kernels are compiled with."""
    return {
        "ELEMENT": build.ELEMENTS[element], "PAIRS": pairs, "EXPERTS": experts, "OUTSIDE": hidden, "INSIDE": mlp,
        "BLOCKS": BLOCKS * build.multiprocessors(),
    }  # fmt: skip
