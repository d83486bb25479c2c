"""The CUDA kernel of decode.py's contract: one thread block a chunk of keys and kv head, in the device's own order.

Called by paged_attention/__init__.py; the kernel is pallas_kernels/cuda/paged_attention_decode.cu. A row is one chunk
unless it has more keys than an even share of what the device runs at once. The plan depends on lengths alone: XLA
computes it once for all layers.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pallas_kernels.cuda import build
from pallas_kernels.paged_attention.decode import Tiles, lowest_key
from pallas_kernels.paged_attention.ragged import owners
from pallas_kernels.paged_attention.scoring import Scoring
from pallas_kernels.paged_attention.tuning import ChunkBlocks

KEYS = 16  # that one warp attends at a time
LANES = 16  # queries of a tile and kv head, at most: the rows of a matrix unit


def supports(q: Array, kv_pages: Array) -> bool:
    """Whether the kernel takes these queries [T, H, D] and pages [N, 2, K, page, D]."""
    H, D = q.shape[1:]
    K, page = kv_pages.shape[2:4]
    narrow = kv_pages.dtype.name in build.EXPONENTS
    types = q.dtype.name in build.ELEMENTS and (narrow or kv_pages.dtype == q.dtype)
    columns = 64 <= D <= 256 and D % (32 if narrow else 16) == 0
    return types and columns and H <= LANES * K and page % KEYS == 0


def attend(
    q: Array,  # [T, H, D] bfloat16 or float16
    kv_pages: Array,  # [N, 2, K, page, D] of the same type, or of eight bits
    page_table: Array,  # [S, P]
    tiles: Tiles,  # [n]
    out: Array | None,  # [T, H, D] array to write them into, in place; the other tokens keep their values
    *,
    tile_tokens: int,  # most tokens of a tile: with the heads of a kv head LANES at most
    sinks: Array | None,  # [H] float32
    kv_scale: Array | None,  # [2, K] float32
    scoring: Scoring,
    blocks: ChunkBlocks,
) -> Array:  # [T, H, D]
    """Tiles of context 0 give zeros."""
    (_, H, D), (_, _, K, page, _) = q.shape, kv_pages.shape
    target = build.target(
        "paged_attention_decode",
        ELEMENT=build.ELEMENTS[q.dtype.name], EXPONENT=build.EXPONENTS.get(kv_pages.dtype.name, 0), HEAD_DIM=D,
        GROUP=H // K, TOKENS=tile_tokens, PAGE=page,
        WARPS=blocks.warps, STAGES=blocks.stages, RESIDENT=blocks.per_sm,
    )  # fmt: skip
    share = max(1, blocks.per_sm * build.multiprocessors() // K)
    chunks, splits = _cut(tiles, share, scoring, blocks)
    side_by_side = len(chunks) if out is None else min(len(chunks), 4 * share)  # often most are none
    parts = chunks.shape[0], K, tile_tokens * H // K
    results = (
        jax.ShapeDtypeStruct(q.shape, q.dtype),
        jax.ShapeDtypeStruct((*parts, D), jnp.float32),  # of chunks that are not alone
        jax.ShapeDtypeStruct((*parts, 2), jnp.float32),  # maximum and sum of exponentials
    )
    optional = [array for array in (sinks, kv_scale, out) if array is not None]
    call = jax.ffi.ffi_call(target, results, input_output_aliases={} if out is None else {4 + len(optional): 0})
    done, _, _ = call(
        chunks, splits, page_table, q, kv_pages, *optional, blocks=np.int64(side_by_side),
        has_sinks=np.int64(sinks is not None), has_scale=np.int64(kv_scale is not None),
        window=np.int64(scoring.window or 0), scale=np.float32(scoring.scale),
        softcap=np.float32(scoring.softcap or 0.0),
    )  # fmt: skip
    return done


def _cut(tiles: Tiles, share: int, scoring: Scoring, blocks: ChunkBlocks) -> tuple[Array, Array]:
    """[W, 8] chunks of all tiles, and the [M, 4] tiles of several, both int32 as the kernel reads them.

    `share`: chunks that run at once. So many are enough beyond one a tile, and for the tiles of several.
    """
    n = tiles.row.shape[0]
    row, token, length, context = tiles
    lowest = lowest_key(context - length, scoring) // KEYS * KEYS
    keys = jnp.where(length > 0, context - lowest, 0)
    turn = KEYS * blocks.warps
    even = jnp.maximum(blocks.least, -(-keys.sum() // share))
    counts = jnp.maximum(1, -(-(keys - even // 4) // even))  # a quarter more is better than one more chunk
    size = -(-keys // (counts * turn)) * turn  # keys of a chunk, of each tile
    counts = jnp.where(length > 0, jnp.maximum(1, -(-keys // jnp.maximum(size, 1))), 0)
    tile, number = owners(counts, n + share)
    live, tile = tile < n, jnp.minimum(tile, n - 1)
    begin = lowest[tile] + number * size[tile]
    end, alone = jnp.minimum(context[tile], begin + size[tile]), (counts[tile] == 1).astype(jnp.int32)
    chunks = row[tile], token[tile], jnp.where(live, length[tile], 0), context[tile], begin, end, alone, alone
    first = jnp.cumsum(counts, dtype=jnp.int32) - counts  # chunk of each tile
    tile, _ = owners(counts > 1, min(n, share))
    live, tile = tile < n, jnp.minimum(tile, n - 1)
    splits = token[tile], length[tile], first[tile], jnp.where(live, counts[tile], 0)
    return jnp.stack(chunks, axis=1), jnp.stack(splits, axis=1)
