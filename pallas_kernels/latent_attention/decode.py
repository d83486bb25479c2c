"""Latent attention of few tokens a row: bound by reading latents, so the work is cut to fill the device evenly.

Called by latent_attention/__init__.py. The plan is that of paged_attention/decode.py: tiles of consecutive tokens of a
row, cut into chunks of latents, one program a (chunk, tile of heads); a second kernel puts the chunks of a long row
together. Heads' tiles of a chunk run side by side, so that the later ones find its pages in the cache.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from pallas_kernels.latent_attention import block
from pallas_kernels.latent_attention.tuning import tile_heads
from pallas_kernels.paged_attention.decode import Tiles, cut, one_token_rows, tiles_of
from pallas_kernels.paged_attention.merge import merge
from pallas_kernels.paged_attention.scoring import Scoring
from pallas_kernels.paged_attention.tuning import DecodeBlocks

__all__ = ["attend", "one_token_rows", "tiles_of"]


def attend(
    q: Array,  # [T, H, R]
    q_rope: Array,  # [T, H, Dr]
    pages: Array,  # [N, page, R + Dr]
    page_table: Array,  # [S, P]
    tiles: Tiles,
    out: Array | None,  # [T, H, R] array to write them into, in place; the other tokens keep their values
    *,
    tile_tokens: int,  # most tokens of a tile
    scale: float,
    blocks: DecodeBlocks,
    interpret: bool,
) -> Array:  # [T, H, R]
    """Tiles of context 0 give zeros."""
    (T, H, R), (_, page, width) = q.shape, pages.shape
    heads = tile_heads(H)
    lanes = block.lanes(tile_tokens, heads)
    chunks = cut(tiles, page_table.shape[1] * page, pl.cdiv(H, heads), Scoring(scale, None, None), blocks)
    W = chunks.plan.shape[0]
    in_place = () if out is None else (out.reshape(T * H, R),)
    result = jax.ShapeDtypeStruct((T * H, R), q.dtype)
    whole, part, weight = pl.pallas_call(
        functools.partial(
            _attend_chunk, heads=H, tile_heads=heads, lanes=lanes, page=page, tile_tokens=tile_tokens,
            block_keys=blocks.keys, scale=scale,
        ),
        out_shape=(
            result,
            jax.ShapeDtypeStruct((W * tile_tokens * H, R), jnp.float32),
            jax.ShapeDtypeStruct((W * tile_tokens * H,), jnp.float32),
        ),
        grid=(pl.cdiv(H, heads), W),
        input_output_aliases={5: 0} if in_place else {},
        compiler_params=triton.CompilerParams(num_warps=blocks.warps, num_stages=blocks.stages),
        interpret=interpret,
        name="latent_attention_decode",
    )(
        chunks.plan, page_table, q.reshape(T * H, R), q_rope.reshape(T * H, -1), pages.reshape(-1, width), *in_place
    )  # fmt: skip
    done = merge(*chunks, part, weight, whole, heads=H, interpret=interpret, name="latent_attention_merge")
    return done.reshape(T, H, R)


def _attend_chunk(  # type: ignore[no-untyped-def]
    plan_ref, table_ref, q_ref, rope_ref, pages_ref, *refs,
    heads: int, tile_heads: int, lanes: int, page: int, tile_tokens: int, block_keys: int, scale: float,
):  # fmt: skip
    """Program (tile of heads, chunk). An aliased output comes once more as an input, which is left alone."""
    out_ref, part_ref, weight_ref = refs[-3:]
    head_tile, chunk = pl.program_id(0), pl.program_id(1)
    row, first_token, length, context, begin, end, alone = (plan_ref[chunk, i] for i in range(7))
    R = q_ref.shape[1]

    @pl.when(length > 0)
    def live() -> None:
        q = block.queries(
            q_ref, rope_ref, first_token, length, head_tile,
            lanes=lanes, heads=heads, tile_heads=tile_heads,
        )  # fmt: skip
        position = context - length + q.token

        def step(i: Array, softmax: block.Softmax) -> block.Softmax:
            first = begin + i * block_keys
            key = first + jnp.arange(block_keys)
            inside = jnp.minimum(key, end - 1)
            at = block.page_rows(table_ref, row, inside, first, page)
            visible = jnp.broadcast_to((key == inside)[:, None], (block_keys, lanes))
            if tile_tokens > 1:
                visible &= key[:, None] <= position[None, :]
            return block.attend(softmax, q, pages_ref, at, visible, rank=R, scale=scale)

        softmax = lax.fori_loop(0, pl.cdiv(end - begin, block_keys), step, block.start(R, lanes))

        @pl.when(alone != 0)
        def write_whole() -> None:
            block.store(out_ref, q.row, block.finish(softmax), q.mine, R)

        @pl.when(alone == 0)
        def write_part() -> None:
            at = q.row + (chunk * tile_tokens - first_token) * heads
            block.store(part_ref, at, block.finish(softmax), q.mine, R)
            block.store_weight(weight_ref, at, softmax, q.mine)
