"""Chunks of keys put together: the second kernel of decode.py and of latent_attention/decode.py.

A chunk's result and the logarithm of its sum of exponentials are all that counts. Mostly few tiles have several chunks
or none, so few programs look at all of them, and leave where there is nothing to do.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from pallas_kernels.paged_attention import block, tuning
from pallas_kernels.paged_attention.scoring import MASKED

AT_ONCE = 4096  # values of chunks that a program has in its registers


def merge(
    plan: Array,  # [W, 7] chunks, as in decode.Chunks
    first: Array,  # [n+1] first chunk of each tile, and past the last one's
    part: Array,  # [W·tile_tokens·H, D] float32: result of each chunk that is not alone
    weight: Array,  # [W·tile_tokens·H] float32: sum of its exponentials, as log2
    out: Array,  # [T·H, D] array to write the tiles of several chunks into, in place; the others keep their values
    *,
    heads: int,
    interpret: bool,
    name: str,
) -> Array:  # [T·H, D]
    """The means of chunks, weighted by their sums of exponentials."""
    W, n, D = plan.shape[0], first.shape[0] - 1, out.shape[1]
    if n == W:  # the capacity of the table makes no second chunk
        return out
    tile_tokens = weight.shape[0] // (W * heads)
    places, programs = n * tile_tokens, max(tuning.MERGES // heads, 1)
    programs = places if places <= programs else programs - 1 | 1  # odd: first tokens of tiles are spread over all
    merged: Array = pl.pallas_call(
        functools.partial(
            _merge_chunks, heads=heads, tile_tokens=tile_tokens, at_once=max(1, AT_ONCE // block.padded(D))
        ),
        out_shape=jax.ShapeDtypeStruct(out.shape, out.dtype),
        grid=(programs, heads),
        input_output_aliases={4: 0},
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=1),
        interpret=interpret,
        name=name,
    )(first, plan, part, weight, out)
    return merged


def _merge_chunks(  # type: ignore[no-untyped-def]
    first_ref, plan_ref, part_ref, weight_ref, _, out_ref, *, heads: int, tile_tokens: int, at_once: int
) -> None:
    """Program (i, head): token i of the tiles, and every so many programs' behind it."""
    i, programs, head = pl.program_id(0), int(pl.num_programs(0)), pl.program_id(1)
    n, D = first_ref.shape[0] - 1, part_ref.shape[1]
    turns = pl.cdiv(n * tile_tokens, programs)
    tiles = jnp.minimum((i + jnp.arange(block.padded(turns)) * programs) // tile_tokens, n - 1)
    most = (triton.load(first_ref.at[tiles + 1]) - triton.load(first_ref.at[tiles])).max()

    def put_together(turn: Array, _: None) -> None:
        place = i + turn * programs
        tile, token = jnp.minimum(place // tile_tokens, n - 1), place % tile_tokens
        first, last = first_ref[tile], first_ref[tile + 1]

        @pl.when(last - first > 1)
        def several() -> None:
            first_token, length = plan_ref[first, 1], plan_ref[first, 2]
            pl.when((token < length) & (place < n * tile_tokens))(lambda: mean(first, last, token, first_token + token))

    def mean(first: Array, last: Array, token: Array, of: Array) -> None:
        column = jnp.arange(block.padded(D))

        def step(i: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            acc, top, total = carry
            chunk = first + i * at_once + jnp.arange(at_once)
            at = (jnp.minimum(chunk, last - 1) * tile_tokens + token) * heads + head
            weight = triton.load(weight_ref.at[at], mask=chunk < last, other=MASKED)
            rows, columns = (jnp.broadcast_to(x, (at_once, column.shape[0])) for x in (at[:, None], column[None]))
            part = triton.load(part_ref.at[rows, columns], mask=(chunk < last)[:, None] & (columns < D), other=0.0)
            new = jnp.maximum(top, weight.max())
            share, old = jnp.exp2(weight - new), jnp.exp2(top - new)
            return acc * old + (part * share[:, None]).sum(0), new, total * old + share.sum()

        start = (jnp.zeros(column.shape, jnp.float32), jnp.float32(MASKED), jnp.float32(0.0))
        acc, _, total = lax.fori_loop(0, pl.cdiv(last - first, at_once), step, start)
        at = jnp.full(column.shape, of * heads + head)
        triton.store(out_ref.at[at, column], (acc / total).astype(out_ref.dtype), mask=column < D)

    @pl.when(most > 1)  # mostly there is nothing to do
    def some() -> None:
        lax.fori_loop(0, turns, put_together, None)
