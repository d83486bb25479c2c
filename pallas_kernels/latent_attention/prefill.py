"""Latent attention of rows with any number of new tokens: bound by matrix products, in tiles of query rows.

Called by latent_attention/__init__.py for rows from num_decode on. A tile holds consecutive tokens of one row, for some
of the heads. The list of tiles is derived in the graph and has a static length; it depends on lengths alone, so XLA
computes it once for all layers. Tokens that no row owns are tiles of a row without latents, which is how they become
zeros.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from pallas_kernels.latent_attention import block
from pallas_kernels.latent_attention.tuning import tile_heads
from pallas_kernels.paged_attention.ragged import owners
from pallas_kernels.paged_attention.tuning import PrefillBlocks


def attend(
    q: Array,  # [T, H, R]
    q_rope: Array,  # [T, H, Dr]
    pages: Array,  # [N, page, R + Dr]
    page_table: Array,  # [S, P]
    query_start: Array,  # [S+1]
    context_len: Array,  # [S]
    num_decode: Array,  # []
    *,
    before: bool,  # see only what the row had before this step
    scale: float,
    blocks: PrefillBlocks,
    interpret: bool,
) -> tuple[Array, Array]:  # [T, H, R] and [T, H] float32; tokens of the first num_decode rows are left unwritten
    """Rows from num_decode on, and zeros for the tokens past query_start[-1]; with the log2 of the sums of weights."""
    (T, H, R), (_, page, width), S = q.shape, pages.shape, page_table.shape[0]
    heads = min(tile_heads(H), blocks.rows)
    tile_tokens = max(1, blocks.rows // heads)
    tiles = -(-T // tile_tokens) + S + 1
    query_start = jnp.append(query_start, jnp.int32(T))  # row S owns what nobody owns, and sees no latent
    context_len = jnp.append(context_len, jnp.int32(0))
    counts = -(-jnp.diff(query_start) // tile_tokens)
    row, number = owners(jnp.where(jnp.arange(S + 1) < num_decode, 0, counts), tiles)
    done, weight = pl.pallas_call(
        functools.partial(
            _attend_tile, heads=H, tile_heads=heads, lanes=block.lanes(tile_tokens, heads), page=page,
            tile_tokens=tile_tokens, block_keys=blocks.keys, before=before, scale=scale,
        ),
        out_shape=(jax.ShapeDtypeStruct((T * H, R), q.dtype), jax.ShapeDtypeStruct((T * H,), jnp.float32)),
        grid=(pl.cdiv(H, heads), tiles),
        compiler_params=triton.CompilerParams(num_warps=blocks.warps, num_stages=blocks.stages),
        interpret=interpret,
        name="latent_attention_prefill",
    )(
        row, number * tile_tokens, query_start, context_len, page_table, q.reshape(T * H, R),
        q_rope.reshape(T * H, -1), pages.reshape(-1, width),
    )  # fmt: skip
    return done.reshape(T, H, R), weight.reshape(T, H)


def _attend_tile(  # type: ignore[no-untyped-def]
    row_ref, begin_ref, start_ref, context_ref, table_ref, q_ref, rope_ref, pages_ref, out_ref, weight_ref,
    *, heads: int, tile_heads: int, lanes: int, page: int, tile_tokens: int, block_keys: int, before: bool,
    scale: float,
):  # fmt: skip
    """Program (tile of heads, tile of tokens), the last tiles of a row first: they have the most latents."""
    head_tile, tile = pl.program_id(0), pl.num_programs(1) - 1 - pl.program_id(1)
    row = row_ref[tile]
    R = q_ref.shape[1]

    @pl.when(row < context_ref.shape[0])
    def live_tile() -> None:
        begin, context = begin_ref[tile], context_ref[row]
        row_start, row_end = start_ref[row], start_ref[row + 1]
        length = jnp.minimum(row_end - row_start - begin, tile_tokens)
        q = block.queries(
            q_ref, rope_ref, row_start + begin, length, head_tile,
            lanes=lanes, heads=heads, tile_heads=tile_heads,
        )  # fmt: skip
        known = context - (row_end - row_start)  # latents of the row before this step
        position = known + begin + q.token
        whole = jnp.maximum(known if before else known + begin + 1, 0) // block_keys  # blocks that every token sees
        end = jnp.minimum(known if before else known + begin + length, context)
        table_row = jnp.minimum(row, table_ref.shape[0] - 1)

        def step(i: Array, softmax: block.Softmax, *, masked: bool) -> block.Softmax:
            key = i * block_keys + jnp.arange(block_keys)
            inside = jnp.clip(key, 0, end - 1) if masked else key
            at = block.page_rows(table_ref, table_row, inside, i * block_keys, page)
            visible = None
            if masked:
                visible = key[:, None] <= position[None, :]
                if before:
                    visible = jnp.broadcast_to((key < known)[:, None], visible.shape)
            return block.attend(softmax, q, pages_ref, at, visible, rank=R, scale=scale)

        softmax = lax.fori_loop(0, whole, functools.partial(step, masked=False), block.start(R, lanes))
        softmax = lax.fori_loop(whole, pl.cdiv(end, block_keys), functools.partial(step, masked=True), softmax)
        block.store(out_ref, q.row, block.finish(softmax), q.mine, R)
        block.store_weight(weight_ref, q.row, softmax, q.mine)
