"""Attention of few tokens a row: bound by reading keys and values, so the work is cut to fill the device evenly.

Called by paged_attention/__init__.py. A tile is one to `tile_tokens` consecutive tokens of a row, which read each key
once for all. Tiles are cut into chunks of keys; a tile of one chunk is written at once, the chunks of a longer one are
put together by merge.py. The list of chunks has a static length: chunks double until they fit it. In a step with
prompts few of its places are taken, or none. The plan depends on lengths alone, so XLA computes it once for all layers.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from pallas_kernels.paged_attention import block, tuning
from pallas_kernels.paged_attention.merge import merge
from pallas_kernels.paged_attention.ragged import owners
from pallas_kernels.paged_attention.scoring import MASKED, Scoring
from pallas_kernels.paged_attention.tuning import DecodeBlocks


class Tiles(NamedTuple):
    """n tiles of query tokens, in any order."""

    row: Array  # [n] row of the page table
    token: Array  # [n] first token
    length: Array  # [n] tokens; 0: not a tile
    context: Array  # [n] keys visible to the last token


class Chunks(NamedTuple):
    """W chunks of the tiles' keys, of which those that are one come first."""

    plan: Array  # [W, 7] row, token, length (0: not a chunk), context of the tile; begin, end of the keys; alone?
    first: Array  # [n+1] first chunk of each tile, and past the last one's


def one_token_rows(context_len: Array, rows: Array | int) -> Tiles:
    """Token s of row s, for the first `rows` of them; context_len: [S]."""
    row = jnp.arange(context_len.shape[0], dtype=jnp.int32)
    return Tiles(row, row, (row < rows).astype(jnp.int32), context_len)


def tiles_of(query_start: Array, context_len: Array, tokens: int, tile_tokens: int) -> Tiles:
    """All rows' tokens; query_start: [S+1], context_len: [S], tokens: T. Tokens of no row are in tiles without keys."""
    S = context_len.shape[0]
    start = jnp.append(query_start, jnp.int32(tokens))  # row S owns what nobody owns
    context_len = jnp.append(context_len, jnp.int32(0))
    lengths = jnp.diff(start)
    row, number = owners(-(-lengths // tile_tokens), min(tokens, S + 1 + tokens // tile_tokens))
    row, done = jnp.minimum(row, S), number * tile_tokens  # tokens of the row before the tile
    length = jnp.clip(lengths[row] - done, 0, tile_tokens)
    context = jnp.where(row < S, context_len[row] - lengths[row] + done + length, 0)
    return Tiles(jnp.minimum(row, S - 1), start[row] + done, length, context)


def attend(
    q: Array,  # [T, H, D]
    kv_pages: Array,  # [N, 2, K, page, D]
    page_table: Array,  # [S, P]
    tiles: Tiles,
    out: Array | None,  # [T, H, D] array to write them into, in place; the other tokens keep their values
    *,
    tile_tokens: int,  # most tokens of a tile
    sinks: Array | None,  # [H] float32
    kv_scale: Array | None,  # [2, K] float32
    scoring: Scoring,
    blocks: DecodeBlocks,
    interpret: bool,
) -> Array:  # [T, H, D]
    """Tiles of context 0 give zeros."""
    (T, H, D), (_, _, K, page, _) = q.shape, kv_pages.shape
    chunks = cut(tiles, page_table.shape[1] * page, K, scoring, blocks)
    W = chunks.plan.shape[0]
    optional = [array for array in (sinks, kv_scale) if array is not None]
    in_place = () if out is None else (out.reshape(T * H, D),)
    programs = W if out is None else min(W, pl.cdiv(tuning.BESIDE_PROMPTS, K))
    result = jax.ShapeDtypeStruct((T * H, D), q.dtype)
    whole, part, weight = pl.pallas_call(
        functools.partial(
            _attend_chunk, heads=H, kv_heads=K, page=page, tile_tokens=tile_tokens, block_keys=blocks.keys,
            scoring=scoring, has_sinks=sinks is not None, has_scale=kv_scale is not None,
        ),
        out_shape=(
            result,
            jax.ShapeDtypeStruct((W * tile_tokens * H, D), jnp.float32),
            jax.ShapeDtypeStruct((W * tile_tokens * H,), jnp.float32),
        ),
        grid=(programs, K),
        input_output_aliases={5 + len(optional): 0} if in_place else {},
        compiler_params=triton.CompilerParams(num_warps=blocks.warps, num_stages=blocks.stages),
        interpret=interpret,
        name="paged_attention_decode",
    )(
        chunks.first, chunks.plan, page_table, q.reshape(T * H, D), kv_pages.reshape(-1, D), *optional, *in_place
    )  # fmt: skip
    done = merge(*chunks, part, weight, whole, heads=H, interpret=interpret, name="paged_attention_merge")
    return done.reshape(T, H, D)


def cut(tiles: Tiles, capacity: int, kv_heads: int, scoring: Scoring, blocks: DecodeBlocks) -> Chunks:
    """Chunks of the smallest size blocks.chunk · 2^i of which few are beyond one a tile, which all have."""
    n = tiles.row.shape[0]
    chunk = max(blocks.chunk, blocks.keys)
    beyond = min(-(-blocks.programs // kv_heads), n * (-(-capacity // chunk) - 1))
    W = n + beyond
    doublings = max(0, (-(-capacity // chunk) - 1).bit_length())
    sizes = chunk << jnp.arange(doublings + 1, dtype=jnp.int32)  # the last holds any row whole
    lowest = lowest_key(tiles.context - tiles.length, scoring) // blocks.keys * blocks.keys  # starts a block
    counts = jnp.maximum(1, -(-(tiles.context - lowest) // sizes[:, None]))  # [sizes, n]
    counts = jnp.where(tiles.length > 0, counts, 0)
    total = counts.sum(1)
    fits = jnp.argmax(total <= total[-1] + beyond)  # the first that does
    counts, size = counts[fits], sizes[fits]
    tile, number = owners(counts, W)
    live, tile = tile < n, jnp.minimum(tile, n - 1)
    begin = lowest[tile] + number * size
    context = tiles.context[tile]
    end = jnp.minimum(context, begin + size)
    length, alone = jnp.where(live, tiles.length[tile], 0), (counts[tile] == 1).astype(jnp.int32)
    columns = tiles.row[tile], tiles.token[tile], length, context, begin, end, alone
    return Chunks(jnp.stack(columns, axis=1), jnp.pad(jnp.cumsum(counts, dtype=jnp.int32), (1, 0)))


def lowest_key(position: Array, scoring: Scoring) -> Array:
    """The first key that the token at `position` sees."""
    return jnp.maximum(position + 1 - scoring.window, 0) if scoring.window is not None else jnp.zeros_like(position)


def _attend_chunk(  # type: ignore[no-untyped-def]
    first_ref, plan_ref, table_ref, q_ref, kv_ref, *refs,
    heads: int, kv_heads: int, page: int, tile_tokens: int, block_keys: int, scoring: Scoring,
    has_sinks: bool, has_scale: bool,
):  # fmt: skip
    """Program (i, kv head): chunk i, and every so many programs' behind it. An aliased output comes once more as an
    input, which is left alone."""
    out_ref, part_ref, weight_ref = refs[-3:]
    sinks_ref, scale_ref = block.optional_refs(refs, has_sinks, has_scale)
    i, programs, head = pl.program_id(0), int(pl.num_programs(0)), pl.program_id(1)
    G, D = heads // kv_heads, q_ref.shape[1]

    def attend(turn: Array, _: None) -> None:
        chunk = i + turn * programs
        row, first_token, length, context, begin, end, alone = (plan_ref[chunk, column] for column in range(7))
        lane = jnp.arange(max(16, block.padded(tile_tokens * G)))  # a matrix unit wants 16 rows
        query_head = head * G + lane % G
        token = jnp.minimum(lane // G, length - 1)
        position = context - length + token
        lowest = lowest_key(context - length, scoring)
        q = block.load(q_ref, (first_token + token) * heads + query_head, D)
        key_scale, value_scale = block.scales(scale_ref, head)
        sink = None
        if sinks_ref is not None:  # counts once a token
            is_first = begin <= lowest
            sink = jnp.where(is_first, triton.load(sinks_ref.at[query_head]), MASKED)

        def step(i: Array, softmax: block.Softmax) -> block.Softmax:
            start = begin + i * block_keys
            key = start + jnp.arange(block_keys)
            inside = jnp.clip(key, lowest, end - 1)
            at = block.page_rows(table_ref, row, inside, start, head=head, kv_heads=kv_heads, page=page)
            k, v = block.load(kv_ref, at, D), block.load(kv_ref, at + kv_heads * page, D)
            visible = jnp.broadcast_to((key == inside)[None, :], (lane.shape[0], block_keys))
            if tile_tokens > 1:
                visible &= key[None, :] <= position[:, None]
                if scoring.window is not None:
                    visible &= key[None, :] > position[:, None] - scoring.window
            return block.accumulate(softmax, q, k, v, visible, scoring, key_scale)

        start = block.start(lane.shape[0], D, sink)
        softmax = lax.fori_loop(0, pl.cdiv(end - begin, block_keys), step, start)
        mine = lane < length * G

        @pl.when(alone != 0)
        def write_whole() -> None:
            block.store(
                out_ref, (first_token + token) * heads + query_head, block.finish(softmax, value_scale), mine, D
            )

        @pl.when(alone == 0)
        def write_part() -> None:
            at = (chunk * tile_tokens + token) * heads + query_head
            block.store(part_ref, at, block.finish(softmax, value_scale), mine, D)
            _, top, total = softmax
            triton.store(weight_ref.at[jnp.where(mine, at, weight_ref.shape[0])], top + jnp.log2(total), mask=mine)

    count = first_ref[first_ref.shape[0] - 1]
    if programs == plan_ref.shape[0]:
        pl.when(i < count)(lambda: attend(jnp.int32(0), None))
    else:
        lax.fori_loop(0, pl.cdiv(count - i, programs), attend, None)
