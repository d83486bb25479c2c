"""One block of latents inside a kernel, and the queries that attend it. Shared by decode.py and prefill.py.

Everything is turned by 90 degrees: scores are [keys, lanes] and sums [R, lanes], so that a tile of latents, loaded
once, is the first operand of both products, as it lies for scores and transposed for sums. Hopper's matrix units read
that from shared memory, want 64 rows there and take any number of lanes from 8: a row of 16 heads wastes nothing, and
the next tile is on its way meanwhile. Positions outside the visible ones are clamped to a visible one, as in
paged_attention/block.py.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.experimental.pallas import triton

from pallas_kernels.paged_attention.block import LOG2E, load, padded
from pallas_kernels.paged_attention.scoring import MASKED

Softmax = tuple[Array, Array, Array]  # weighted sum of latents [R, M], maximum [M] in units of log2, sum of weights [M]


class Queries(NamedTuple):
    """M lanes: some tokens of a row times some heads."""

    row: Array  # [M] token * H + head
    token: Array  # [M] counted from the tile's first
    mine: Array  # [M] whether the lane is a query; the others repeat one
    latent: Array  # [M, R]
    rope: Array  # [M, Dr]


def lanes(tokens: int, tile_heads: int) -> int:
    """M of a tile; the interpreter and the matrix units take powers of two."""
    return max(16, padded(tokens * tile_heads))


def queries(
    q_ref: Any,
    rope_ref: Any,
    first_token: Array,
    length: Array,
    tile: Array,
    *,
    lanes: int,
    heads: int,
    tile_heads: int,
) -> Queries:
    """`length` tokens from first_token on, of the heads of a `tile` of heads."""
    lane = jnp.arange(lanes)
    token, head = lane // tile_heads, tile * tile_heads + lane % tile_heads
    mine = token < length
    if heads % tile_heads:
        mine, head = mine & (head < heads), jnp.minimum(head, heads - 1)
    token = jnp.minimum(token, length - 1)
    row = (first_token + token) * heads + head
    return Queries(row, token, mine, load(q_ref, row, q_ref.shape[1]), load(rope_ref, row, rope_ref.shape[1]))


def start(rank: int, lanes: int) -> Softmax:
    """No latent seen yet."""
    top, total = jnp.full((lanes,), MASKED, jnp.float32), jnp.zeros((lanes,), jnp.float32)
    return jnp.zeros((padded(rank), lanes), jnp.float32), top, total


def attend(
    softmax: Softmax, q: Queries, pages_ref: Any, at: Array, visible: Array | None, *, rank: int, scale: float
) -> Softmax:
    """Fold the latents in rows `at` [keys] of the flattened pages into the softmax; visible [keys, M] or None for
    all."""
    acc, top, total = softmax
    latent = load(pages_ref, at, rank).astype(q.latent.dtype)
    key = load(pages_ref, at, pages_ref.shape[1] - rank, start=rank).astype(q.rope.dtype)
    scores = (_product(latent, q.latent.T) + _product(key, q.rope.T)) * (scale * LOG2E)
    if visible is not None:
        scores = jnp.where(visible, scores, MASKED)
    new = jnp.maximum(top, scores.max(0))
    exponent = scores - new[None, :]
    if visible is not None:  # where nothing is visible, scores - new is 0
        exponent = jnp.where(visible, exponent, MASKED)
    weights, old = jnp.exp2(exponent), jnp.exp2(top - new)
    acc = acc * old[None, :] + _product(latent.T, weights.astype(latent.dtype))
    return acc, new, total * old + weights.sum(0)


def finish(softmax: Softmax) -> Array:
    """The weighted mean [R, M]; zeros where no latent was seen."""
    acc, _, total = softmax
    return acc / jnp.where(total > 0, total, 1.0)[None, :]


def store(ref: Any, row: Array, value: Array, live: Array, columns: int) -> None:
    """Write value [padded(columns), M], transposed, to rows `row` [M] of ref where `live` [M]. The interpreter writes
    old values back to masked places, so those point out of the array."""
    rows = jnp.broadcast_to(jnp.where(live, row, ref.shape[0])[None, :], value.shape)
    column = lax.broadcasted_iota(jnp.int32, value.shape, 0)
    mask = jnp.broadcast_to(live[None, :], value.shape) & (column < columns)
    triton.store(ref.at[rows, column], value.astype(ref.dtype), mask=mask)


def store_weight(ref: Any, row: Array, softmax: Softmax, live: Array) -> None:
    """Write the log2 of the sum of exponentials to places `row` [M] of ref where `live` [M]."""
    _, top, total = softmax
    weight = jnp.where(total > 0, top + jnp.log2(total), MASKED)
    triton.store(ref.at[jnp.where(live, row, ref.shape[0])], weight, mask=live)


def page_rows(table_ref: Any, row: Array, position: Array, start: Array, page: int) -> Array:
    """Rows [keys] of the flattened pages where the latents at `position` [keys] lie; the block begins at `start`."""
    keys = position.shape[0]
    if page % keys == 0:  # the block lies in one page
        pages = jnp.broadcast_to(table_ref[row, start // page], (keys,))
    else:
        pages = triton.load(table_ref.at[jnp.broadcast_to(row, (keys,)), position // page])
    return pages * page + position % page


def _product(a: Array, b: Array) -> Array:
    return triton.dot(a, b, precision=lax.Precision.HIGHEST if a.dtype == jnp.float32 else None)
