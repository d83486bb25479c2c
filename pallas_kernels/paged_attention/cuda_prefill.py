"""The CUDA kernel of prefill.py's contract for Hopper: copies of whole pages, matrix products of a warpgroup.

Called by paged_attention/__init__.py; the kernel is pallas_kernels/cuda/paged_attention_prefill.cu. Its plan, the list
of tiles with the longest first, depends on lengths alone: XLA computes it once for all layers.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pallas_kernels.cuda import build
from pallas_kernels.paged_attention.ragged import owners
from pallas_kernels.paged_attention.scoring import Scoring

ROWS = 128  # tokens × heads of a kv head in a tile
HEAD_DIMS = (64, 80, 96, 128, 192, 256)
HOPPER = "90a"
LEAST_PART = 4  # blocks of keys that are worth a thread block


@dataclass(frozen=True)
class Blocks:
    """What a thread block holds at once, and how its two warpgroups work together."""

    keys: int  # of a block
    query_stages: int  # tiles whose queries are there
    turns: bool  # one warpgroup multiplies while the other weighs; else as it comes


def blocks(head_dim: int) -> Blocks:
    """What fits the registers of two warpgroups and the shared memory of an SM. On an H200, whether they take turns or
    not is within 3%, and blocks of 160 keys are no faster."""
    return Blocks(keys=128 if head_dim <= 128 else 64, query_stages=2 if head_dim <= 192 else 1, turns=head_dim <= 128)


def supports(q: Array, kv_pages: Array, kv_scale: Array | None) -> bool:
    """Whether the kernel takes these queries [T, H, D] and pages [N, 2, K, page, D] on this machine's GPU."""
    _, H, D = q.shape
    _, _, K, page, _ = kv_pages.shape
    types = q.dtype == kv_pages.dtype and q.dtype.name in build.ELEMENTS and kv_scale is None
    return types and D in HEAD_DIMS and H // K <= ROWS and page in (16, 32, 64, 128) and build.architecture() == HOPPER


def attend(
    q: Array,  # [T, H, D] bfloat16 or float16
    kv_pages: Array,  # [N, 2, K, page, D] of the same type
    page_table: Array,  # [S, P]
    query_start: Array,  # [S+1]
    context_len: Array,  # [S]
    num_decode: Array,  # []
    *,
    sinks: Array | None,  # [H] float32
    scoring: Scoring,
    blocks: Blocks,
) -> Array:  # [T, H, D]; tokens of the first num_decode rows are left unwritten
    """Rows from num_decode on, and zeros for the tokens past query_start[-1]."""
    (T, H, D), (_, _, K, page, _) = q.shape, kv_pages.shape
    G = H // K
    target = build.target("paged_attention_prefill", **constants(q.dtype.name, D, G, page, blocks))
    processors = build.multiprocessors()
    tile_tokens = ROWS // G
    whole_tiles = -(-T // tile_tokens) * K
    split_places = 0 if whole_tiles > processors else -(-2 * processors // K)  # enough tiles keep all busy
    tiles = plan(
        query_start, context_len, num_decode, T, tile_tokens, blocks.keys, scoring.window, processors / K, split_places
    )
    slots = max(split_places * K, 1)
    results = (
        jax.ShapeDtypeStruct((T, H, D), q.dtype),
        jax.ShapeDtypeStruct((slots, ROWS, D), jnp.float32),  # of tiles in parts
        jax.ShapeDtypeStruct((slots, ROWS, 2), jnp.float32),
    )
    out, _, _ = jax.ffi.ffi_call(target, results)(
        tiles, context_len, page_table, q, kv_pages, *(() if sinks is None else (sinks,)),
        blocks=np.int64(min(processors, len(tiles) * K)),
        split_places=np.int64(split_places),
        window=np.int64(scoring.window or 0),
        scale=np.float32(scoring.scale),
        softcap=np.float32(scoring.softcap or 0.0),
    )  # fmt: skip
    return out


def constants(dtype: str, head_dim: int, group: int, page: int, blocks: Blocks) -> dict[str, int | str]:
    """Macros of the kernel's compilation."""
    return {
        "ELEMENT": build.ELEMENTS[dtype],
        "HEAD_DIM": head_dim,
        "GROUP": group,
        "PAGE": page,
        "KEYS": blocks.keys,
        "QUERY_STAGES": blocks.query_stages,
        "TURNS": int(blocks.turns),
    }


def plan(
    query_start: Array,
    context_len: Array,
    num_decode: Array,
    tokens: int,
    tile_tokens: int,
    block_keys: int,
    window: int | None,
    share: float,
    split_places: int,
) -> Array:
    """[places, 8] int32, the tiles with most keys first: row, first token, tokens (0 in places past the last tile),
    keys the last token could see without a window (0: the results are zeros); and first block of keys, the one past
    the last, which part of its tile this is, of how many.

    Tiles in parts come first, part after part, in at most `split_places` places (0: none is split). `share` is how
    many thread blocks there are for a kv head.
    """
    query_start = jnp.append(query_start, jnp.int32(tokens))  # row S owns what nobody owns, and sees no key
    context_len = jnp.append(context_len, jnp.int32(0))
    begin, end = query_start[:-1], query_start[1:]
    rows = len(begin)
    counts = jnp.where(jnp.arange(rows) < num_decode, 0, -(-(end - begin) // tile_tokens))
    row, number = owners(counts, -(-tokens // tile_tokens) + rows)
    live = row < rows
    row = jnp.minimum(row, rows - 1)
    token = begin[row] + number * tile_tokens
    size = jnp.where(live, jnp.minimum(tile_tokens, end[row] - token), 0)
    keys = jnp.where(live & (context_len[row] > 0), jnp.maximum(context_len[row] - end[row] + token + size, 0), 0)
    first = jnp.zeros_like(keys) if window is None else jnp.maximum(keys - size - window + 1, 0) // block_keys
    blocks = -(-keys // block_keys) - first

    parts = jnp.where(live, 1, 0)
    if split_places:
        parts = jnp.maximum(parts, -(-blocks // _longest_part(blocks, share)))
    tile, part = owners(parts, len(row) + split_places)
    live = tile < len(row)
    tile = jnp.minimum(tile, len(row) - 1)
    length = -(-blocks // jnp.maximum(parts, 1))[tile]
    start = first[tile] + part * length
    stop = jnp.minimum(start + length, (first + blocks)[tile])
    columns = (row[tile], token[tile], jnp.where(live, size[tile], 0), keys[tile], start, stop, part, parts[tile])
    order = jnp.argsort(jnp.where(live, -blocks[tile], 1))
    return jnp.stack(columns, axis=1)[order]


def _longest_part(blocks: Array, share: float) -> Array:
    """Blocks of keys of a part, at most: what each thread block would do if all did the same, or somewhat more if no
    thread block has two parts then."""
    even = jnp.maximum(jnp.ceil(blocks.sum() / share).astype(jnp.int32), LEAST_PART)
    lengths = even + even * jnp.arange(2 * 8 + 1) // 8  # up to three times
    fits = (-(-blocks // lengths[:, None])).sum(1) <= share
    return jnp.where(fits.any(), lengths[fits.argmax()], even)
