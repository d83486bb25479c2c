"""The CUDA kernel of the tiles: pairs are counted, placed and cut by one thread block in shared memory.

Called by grouped_matmul/tiles.py; the kernel is pallas_kernels/cuda/expert_tiles.cu.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pallas_kernels.cuda import build

PAIRS, EXPERTS = 4096, 512  # at most
WARPS = (4, 8, 16)  # that the kernel is compiled for


def supports(pairs: int, experts: int) -> bool:
    """Whether the kernel takes so many."""
    return pairs <= PAIRS and experts <= EXPERTS


def tiles(chosen: Array, experts: int, rows: int, most: int) -> tuple[Array, Array]:
    """chosen: [M] int32, most: W → order [M] and table [W, 3] of tiles.py's Tiles."""
    M = chosen.shape[0]
    target = build.recorded_target("expert_tiles", **constants(M, experts, rows))
    results = jax.ShapeDtypeStruct((M,), jnp.int32), jax.ShapeDtypeStruct((most, 3), jnp.int32)
    order, table = jax.ffi.ffi_call(target, results)(chosen, tiles=np.int64(most))
    return order, table


def constants(pairs: int, experts: int, rows: int) -> dict[str, int | str]:
    """What the kernel is compiled with. A thread sums the counts of two experts."""
    wanted = max(-(-pairs // 32), -(-(experts // 2 + 1) // 32))
    warps = next((size for size in WARPS if wanted <= size), WARPS[-1])
    return {"EXPERTS": experts, "TILE_ROWS": rows, "WARPS": warps, "EACH": -(-pairs // (32 * warps))}
