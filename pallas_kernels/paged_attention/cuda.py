"""The CUDA kernel of decode.py's contract: attention of one token a row, read at an even pace by all of the device.

Called by paged_attention/__init__.py; the kernel is pallas_kernels/cuda/paged_attention_decode.cu. The tiles of all
rows and kv heads form one line that is cut into equal stretches, one a thread block, so the only plan is how many
tiles lie before each row. It depends on lengths alone: XLA computes it once for all layers.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pallas_kernels.cuda import build
from pallas_kernels.paged_attention.scoring import Scoring

TILE = 16  # keys
GROUP = 16  # query heads of a kv head, at most: the rows of a matrix unit
HEAD_DIMS = (64, 80, 96, 112, 128, 192, 256)
ELEMENTS = {"bfloat16": "__nv_bfloat16", "float16": "__half"}


@dataclass(frozen=True)
class Blocks:
    """How a thread block reads: warps that take tiles in turn, each with a ring of `stages` tiles."""

    warps: int
    stages: int
    per_sm: int  # thread blocks of an SM
    least: int  # tiles of a row that are worth a thread block


def blocks(head_dim: int, group: int) -> Blocks:
    """Measured on an H200 with head_dim 128 and bfloat16."""
    return Blocks(warps=4, stages=3 if head_dim <= 128 else 2, per_sm=2 if group * head_dim <= 1024 else 1, least=8)


def supports(q: Array, kv_pages: Array) -> bool:
    """Whether the kernel takes these queries [T, H, D] and pages [N, 2, K, page, D]."""
    _, H, D = q.shape
    _, _, K, page, _ = kv_pages.shape
    types = q.dtype == kv_pages.dtype and q.dtype.name in ELEMENTS
    return types and D in HEAD_DIMS and H // K <= GROUP and page % TILE == 0


def attend(
    q: Array,  # [T, H, D] bfloat16 or float16
    kv_pages: Array,  # [N, 2, K, page, D] of the same type, page a multiple of 16
    page_table: Array,  # [S, P]
    context_len: Array,  # [S]
    rows: Array | int,  # [] rows [0, rows) are attended, token s of row s
    out: Array | None,  # [T, H, D] array to write them into, in place; the other tokens keep their values
    *,
    scoring: Scoring,
    blocks: Blocks,
) -> Array:  # [T, H, D]
    """Rows of context 0 give zeros."""
    (T, H, D), (_, _, K, page, _) = q.shape, kv_pages.shape
    G = H // K
    target = build.target(
        "paged_attention_decode", ELEMENT=ELEMENTS[q.dtype.name], HEAD_DIM=D, GROUP=G, PAGE=page,
        WARPS=blocks.warps, STAGES=blocks.stages, BLOCKS=blocks.per_sm,
    )  # fmt: skip
    count = blocks.per_sm * build.multiprocessors()
    results = (
        jax.ShapeDtypeStruct((T, H, D), q.dtype),
        jax.ShapeDtypeStruct((2 * count, G, D), jnp.float32),  # the part before and behind each cut
        jax.ShapeDtypeStruct((2 * count, G, 2), jnp.float32),
    )
    in_place = () if out is None else (out,)
    call = jax.ffi.ffi_call(target, results, input_output_aliases={5: 0} if in_place else {})
    static = {
        "blocks": np.int64(count),
        "least": np.int64(blocks.least),
        "window": np.int64(scoring.window or 0),
        "scale": np.float32(scoring.scale),
        "softcap": np.float32(scoring.softcap or 0.0),
    }
    done, _, _ = call(_tiles(context_len, rows, scoring), context_len, page_table, q, kv_pages, *in_place, **static)
    return done


def _tiles(context_len: Array, rows: Array | int, scoring: Scoring) -> Array:
    """[S+1] int32 tiles of the rows before: those a row's window touches, one for a row without keys."""
    first = 0 if scoring.window is None else jnp.maximum(context_len - scoring.window, 0) // TILE
    tiles = jnp.maximum(-(-context_len // TILE) - first, 1)
    tiles = jnp.where(jnp.arange(len(context_len)) < rows, tiles, 0)
    return jnp.pad(jnp.cumsum(tiles, dtype=jnp.int32), (1, 0))
