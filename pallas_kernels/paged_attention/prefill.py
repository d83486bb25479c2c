"""Attention of rows with any number of new tokens: bound by matrix products, in tiles of query rows.

Called by paged_attention/__init__.py for rows from num_decode on. A tile holds consecutive tokens of one row, for all
query heads of one kv head. The list of tiles is derived in the graph and has a static length; it depends on lengths
alone, so XLA computes it once for all layers. Tokens that no row owns are tiles of a row without keys, which is how
they become zeros.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from pallas_kernels.paged_attention import block
from pallas_kernels.paged_attention.ragged import owners
from pallas_kernels.paged_attention.scoring import Scoring
from pallas_kernels.paged_attention.tuning import PrefillBlocks


def attend(
    q: Array,  # [T, H, D]
    kv_pages: Array,  # [N, 2, K, page, D]
    page_table: Array,  # [S, P]
    query_start: Array,  # [S+1]
    context_len: Array,  # [S]
    num_decode: Array,  # []
    *,
    sinks: Array | None,  # [H] float32
    kv_scale: Array | None,  # [2, K] float32
    scoring: Scoring,
    blocks: PrefillBlocks,
    interpret: bool,
) -> Array:  # [T, H, D]; tokens of the first num_decode rows are left unwritten
    """Rows from num_decode on, and zeros for the tokens past query_start[-1]."""
    (T, H, D), (_, _, K, page, _) = q.shape, kv_pages.shape
    S, G = page_table.shape[0], H // K
    rows = min(blocks.rows, max(16, block.padded(T * G)))
    tile_tokens = max(1, rows // G)
    tiles = -(-T // tile_tokens) + S + 1
    query_start = jnp.append(query_start, jnp.int32(T))  # row S owns what nobody owns, and sees no key
    context_len = jnp.append(context_len, jnp.int32(0))
    optional = [array for array in (sinks, kv_scale) if array is not None]
    row, begin = _tiles(query_start, num_decode, tiles, tile_tokens)
    done = pl.pallas_call(
        functools.partial(
            _attend_tile,
            heads=H,
            kv_heads=K,
            page=page,
            rows=max(rows, block.padded(G)),
            tile_tokens=tile_tokens,
            block_keys=blocks.keys,
            scoring=scoring,
            has_sinks=sinks is not None,
            has_scale=kv_scale is not None,
        ),
        out_shape=jax.ShapeDtypeStruct((T * H, D), q.dtype),
        grid=(tiles, K),
        compiler_params=triton.CompilerParams(num_warps=blocks.warps, num_stages=blocks.stages),
        interpret=interpret,
        name="paged_attention_prefill",
    )(row, begin, query_start, context_len, page_table, q.reshape(T * H, D), kv_pages.reshape(-1, D), *optional)
    return done.reshape(T, H, D)


def _tiles(query_start: Array, num_decode: Array, tiles: int, tile_tokens: int) -> tuple[Array, Array]:
    """Row of each tile, S+1 or more past the live ones, and the tile's first token within its row; both [tiles]."""
    query_len = jnp.diff(query_start)  # [S+1]
    rows = query_len.shape[0]
    counts = jnp.where(jnp.arange(rows) < num_decode, 0, -(-query_len // tile_tokens))
    row, number = owners(counts, tiles)
    return row, number * tile_tokens


def _attend_tile(  # type: ignore[no-untyped-def]
    row_ref, begin_ref, start_ref, context_ref, table_ref, q_ref, kv_ref, *refs,
    heads: int, kv_heads: int, page: int, rows: int, tile_tokens: int, block_keys: int, scoring: Scoring,
    has_sinks: bool, has_scale: bool,
):  # fmt: skip
    """Program (tile, kv head), the last tiles of a row first: they have the most keys."""
    out_ref = refs[-1]
    sinks_ref, scale_ref = block.optional_refs(refs, has_sinks, has_scale)
    tile, head = pl.num_programs(0) - 1 - pl.program_id(0), pl.program_id(1)
    row = row_ref[tile]
    G, D = heads // kv_heads, q_ref.shape[1]

    @pl.when(row < context_ref.shape[0])
    def live_tile() -> None:
        begin, context = begin_ref[tile], context_ref[row]
        row_start, row_end = start_ref[row], start_ref[row + 1]
        token = row_start + begin + jnp.arange(rows) // G  # [rows]
        query_head = head * G + jnp.arange(rows) % G
        live = (token < row_end) & (jnp.arange(rows) < tile_tokens * G)
        first = context - (row_end - row_start) + begin  # position of the tile's first token
        position = first + jnp.arange(rows) // G
        table_row = jnp.minimum(row, table_ref.shape[0] - 1)
        lowest = 0 if scoring.window is None else jnp.maximum(first - scoring.window + 1, 0)
        end = jnp.minimum(first + tile_tokens, context)
        q = block.load(q_ref, jnp.minimum(token, row_end - 1) * heads + query_head, D)
        key_scale, value_scale = block.scales(scale_ref, head)
        sink = None if sinks_ref is None else triton.load(sinks_ref.at[query_head])

        def step(i: Array, softmax: block.Softmax, *, masked: bool) -> block.Softmax:
            start = i * block_keys
            key = start + jnp.arange(block_keys)
            inside = jnp.clip(key, lowest, end - 1) if masked else key
            at = block.page_rows(table_ref, table_row, inside, start, head=head, kv_heads=kv_heads, page=page)
            k, v = block.load(kv_ref, at, D), block.load(kv_ref, at + kv_heads * page, D)
            visible = None
            if masked:
                visible = key[None, :] <= position[:, None]
                if scoring.window is not None:
                    visible &= key[None, :] > position[:, None] - scoring.window
            return block.accumulate(softmax, q, k, v, visible, scoring, key_scale)

        low = lowest // block_keys
        diagonal = low if scoring.window is not None else jnp.maximum(first + 1, 0) // block_keys
        softmax = block.start(rows, D, sink)
        softmax = lax.fori_loop(low, diagonal, functools.partial(step, masked=False), softmax)
        softmax = lax.fori_loop(diagonal, pl.cdiv(end, block_keys), functools.partial(step, masked=True), softmax)
        block.store(out_ref, token * heads + query_head, block.finish(softmax, value_scale), live, D)
