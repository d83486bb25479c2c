"""Attention of one token a row: bound by reading keys and values, so the work is cut to fill the device evenly.

Called by paged_attention/__init__.py. Rows are cut into chunks of keys, one program a (chunk, kv head); a row of one
chunk is written at once, the chunks of a longer one are put together by a second kernel. The list of chunks has a
static length: chunks double until they fit it. Programs past the list's live part do nothing. The plan depends on
lengths alone, so XLA computes it once for all layers.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from pallas_kernels.paged_attention import block
from pallas_kernels.paged_attention.scoring import MASKED, Scoring
from pallas_kernels.paged_attention.tuning import DecodeBlocks

MERGED = 32  # chunks that the second kernel puts together at a time


class Chunks(NamedTuple):
    """W chunks of S rows."""

    row: Array  # [W] row of each chunk; S or more past the live ones
    first: Array  # [S+1] first chunk of each row
    keys: Array  # [1] keys of a chunk, a multiple of a block's


def attend(
    q: Array,  # [T, H, D]
    kv_pages: Array,  # [N, 2, K, page, D]
    page_table: Array,  # [S, P]
    context_len: Array,  # [S]
    rows: Array | int,  # [] rows [0, rows) are attended, token s of row s
    out: Array | None,  # [T, H, D] array to write them into, in place; the other tokens keep their values
    *,
    sinks: Array | None,  # [H] float32
    kv_scale: Array | None,  # [2, K] float32
    scoring: Scoring,
    blocks: DecodeBlocks,
    interpret: bool,
) -> Array:  # [T, H, D]
    """Rows of context 0 give zeros."""
    (T, H, D), (_, _, K, page, _) = q.shape, kv_pages.shape
    S, P = page_table.shape
    chunks = _cut(context_len, rows, P * page, K, scoring, blocks)
    W = chunks.row.shape[0]
    optional = [array for array in (sinks, kv_scale) if array is not None]
    in_place = () if out is None else (out.reshape(T * H, D),)
    result = jax.ShapeDtypeStruct((T * H, D), q.dtype)
    whole, part, weight = pl.pallas_call(
        functools.partial(
            _attend_chunk,
            heads=H,
            kv_heads=K,
            page=page,
            block_keys=blocks.keys,
            scoring=scoring,
            has_sinks=sinks is not None,
            has_scale=kv_scale is not None,
        ),
        out_shape=(
            result,
            jax.ShapeDtypeStruct((W * H, D), jnp.float32),
            jax.ShapeDtypeStruct((W * H,), jnp.float32),
        ),
        grid=(W, K),
        input_output_aliases={7 + len(optional): 0} if in_place else {},
        compiler_params=triton.CompilerParams(num_warps=blocks.warps, num_stages=blocks.stages),
        interpret=interpret,
        name="paged_attention_decode",
    )(*chunks, context_len, page_table, q.reshape(T * H, D), kv_pages.reshape(-1, D), *optional, *in_place)
    if W == S:  # the capacity of the table makes no second chunk
        return whole.reshape(T, H, D)
    merged = pl.pallas_call(
        functools.partial(_merge_chunks, heads=H),
        out_shape=result,
        grid=(S, H),
        input_output_aliases={3: 0},
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=1),
        interpret=interpret,
        name="paged_attention_merge",
    )(chunks.first, part, weight, whole)
    return merged.reshape(T, H, D)


def _cut(
    context_len: Array, rows: Array | int, capacity: int, kv_heads: int, scoring: Scoring, blocks: DecodeBlocks
) -> Chunks:
    """Chunks of the smallest size blocks.chunk · 2^i that makes them fit the list; every live row has at least one."""
    S = context_len.shape[0]
    chunk = max(blocks.chunk, blocks.keys)
    spare = -(-blocks.programs // kv_heads)
    W = S + min(spare, S * (-(-capacity // chunk) - 1))
    doublings = max(0, (-(-capacity // chunk) - 1).bit_length())
    sizes = chunk << jnp.arange(doublings + 1, dtype=jnp.int32)  # the last holds any row whole
    keys = context_len - _first_key(context_len, scoring, blocks.keys)
    counts = jnp.maximum(1, -(-keys // sizes[:, None]))  # [sizes, S]
    counts = jnp.where(jnp.arange(S) < rows, counts, 0)
    size = jnp.argmax(counts.sum(1) <= W)  # the first that fits
    last = jnp.cumsum(counts[size], dtype=jnp.int32)
    row = (last <= jnp.arange(W)[:, None]).sum(1, dtype=jnp.int32)  # rows that end before the chunk
    return Chunks(row, jnp.pad(last, (1, 0)), sizes[size][None])


def _first_key(context_len: Array, scoring: Scoring, block_keys: int) -> Array:
    """Start of the first block that the window touches."""
    if scoring.window is None:
        return jnp.zeros_like(context_len)
    return jnp.maximum(context_len - scoring.window, 0) // block_keys * block_keys


def _attend_chunk(  # type: ignore[no-untyped-def]
    row_ref, first_ref, keys_ref, context_ref, table_ref, q_ref, kv_ref, *refs,
    heads: int, kv_heads: int, page: int, block_keys: int, scoring: Scoring, has_sinks: bool, has_scale: bool,
):  # fmt: skip
    """Program (chunk, kv head). An aliased output comes once more as an input, which is left alone."""
    out_ref, part_ref, weight_ref = refs[-3:]
    sinks_ref = refs[0] if has_sinks else None
    scale_ref = refs[has_sinks] if has_scale else None
    chunk, head = pl.program_id(0), pl.program_id(1)
    row = row_ref[chunk]
    G, D = heads // kv_heads, q_ref.shape[1]

    @pl.when(row < context_ref.shape[0])
    def live() -> None:
        lane = jnp.arange(max(16, block.padded(G)))  # a matrix unit wants 16 rows
        context, first = context_ref[row], first_ref[row]
        begin = _first_key(context, scoring, block_keys) + (chunk - first) * keys_ref[0]
        end = jnp.minimum(context, begin + keys_ref[0])
        lowest = 0 if scoring.window is None else jnp.maximum(context - scoring.window, 0)
        query_head = head * G + jnp.minimum(lane, G - 1)
        q = block.load(q_ref, row * heads + query_head, D)
        key_scale, value_scale = block.scales(scale_ref, head)
        sink = None
        if sinks_ref is not None:  # counts once a row
            sink = jnp.where(chunk == first, triton.load(sinks_ref.at[query_head]), MASKED)

        def step(i: Array, softmax: block.Softmax) -> block.Softmax:
            start = begin + i * block_keys
            position = start + jnp.arange(block_keys)
            inside = jnp.clip(position, lowest, end - 1)
            at = block.page_rows(table_ref, row, inside, start, head=head, kv_heads=kv_heads, page=page)
            k, v = block.load(kv_ref, at, D), block.load(kv_ref, at + kv_heads * page, D)
            visible = jnp.broadcast_to((position == inside)[None, :], (lane.shape[0], block_keys))
            return block.accumulate(softmax, q, k, v, visible, scoring, key_scale)

        start = block.start(lane.shape[0], D, sink)
        softmax = lax.fori_loop(0, pl.cdiv(end - begin, block_keys), step, start)
        whole = first_ref[row + 1] - first == 1

        @pl.when(whole)
        def write_whole() -> None:
            block.store(out_ref, row * heads + head * G + lane, block.finish(softmax, value_scale), lane < G, D)

        @pl.when(jnp.logical_not(whole))
        def write_part() -> None:
            at = chunk * heads + head * G + lane
            block.store(part_ref, at, block.finish(softmax, value_scale), lane < G, D)
            _, top, total = softmax
            triton.store(
                weight_ref.at[jnp.where(lane < G, at, weight_ref.shape[0])], top + jnp.log2(total), mask=lane < G
            )


def _merge_chunks(first_ref, part_ref, weight_ref, _, out_ref, *, heads: int) -> None:  # type: ignore[no-untyped-def]
    """Program (row, head): the mean of a row's chunks, weighted by their sums of exponentials (given as log2)."""
    row, head = pl.program_id(0), pl.program_id(1)
    first, last = first_ref[row], first_ref[row + 1]
    D = part_ref.shape[1]

    @pl.when(last - first > 1)
    def several() -> None:
        def step(i: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            acc, top, total = carry
            chunk = first + i * MERGED + jnp.arange(MERGED)
            at = jnp.minimum(chunk, last - 1) * heads + head
            weight = jnp.where(chunk < last, triton.load(weight_ref.at[at]), MASKED)
            new = jnp.maximum(top, weight.max())
            share, old = jnp.exp2(weight - new), jnp.exp2(top - new)
            parts = block.load(part_ref, at, D) * share[:, None]
            return acc * old + parts.sum(0), new, total * old + share.sum()

        start = (jnp.zeros((block.padded(D),), jnp.float32), jnp.float32(MASKED), jnp.float32(0.0))
        acc, _, total = lax.fori_loop(0, pl.cdiv(last - first, MERGED), step, start)
        column = jnp.arange(block.padded(D))
        at = jnp.full(column.shape, row * heads + head)
        triton.store(out_ref.at[at, column], (acc / total).astype(out_ref.dtype), mask=column < D)
