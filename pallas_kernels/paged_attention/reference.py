"""Paged attention in plain jax.numpy: the specification, and what runs where nothing else does.

Called by paged_attention/__init__.py. Softmax is computed online over blocks of keys of a fixed size that start at
multiples of it, in float32, so a row's result does not depend on its company nor on how its prompt was cut into
chunks. Loops run to the longest live context, never to the capacity of the page table.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from pallas_kernels.paged_attention.scoring import MASKED, Scoring

DECODE_KEYS = 32  # keys of one block, rounded up to whole pages
PREFILL_KEYS = 64
TILE = 64  # query tokens of one tile of a prompt


class Softmax(NamedTuple):
    """A softmax under way: weighted sum of values, running maximum and running sum, all float32."""

    acc: Array  # [..., M, D]
    top: Array  # [..., M]
    total: Array  # [..., M]


def attend(
    q: Array,  # [T, H, D]
    kv_pages: Array,  # [N, 2, K, page, D]
    page_table: Array,  # [S, P]
    query_start: Array,  # [S+1]
    context_len: Array,  # [S]
    num_decode: Array,  # []
    *,
    decode_only: bool,
    sinks: Array | None,  # [H]
    kv_scale: Array | None,  # [2, K]
    scoring: Scoring,
) -> Array:  # [T, H, D]
    """The public function's contract, see paged_attention/__init__.py."""
    (T, H, D), (_, _, K, page, _) = q.shape, kv_pages.shape
    S = page_table.shape[0]
    if kv_scale is not None:  # a product with scaled keys is one with a scaled query, and the values' mean is linear
        by_head = jnp.repeat(kv_scale, H // K, axis=1)[..., None]  # [2, H, 1]
        out = attend(
            q.astype(jnp.float32) * by_head[0], kv_pages, page_table, query_start, context_len, num_decode,
            decode_only=decode_only, sinks=sinks, kv_scale=None, scoring=scoring,
        )  # fmt: skip
        return (out * by_head[1]).astype(q.dtype)
    grouped = q.reshape(T, K, H // K, D)
    sinks = None if sinks is None else sinks.reshape(K, H // K)
    pages_per_block = max(_pages_per_block(keys, page) for keys in (DECODE_KEYS, PREFILL_KEYS))
    page_table = jnp.pad(page_table, ((0, 0), (0, -page_table.shape[1] % pages_per_block)))
    if decode_only:
        return _decode(grouped, kv_pages, page_table, context_len, sinks, scoring).reshape(T, H, D)
    rows = min(S, T)
    decode_context = jnp.where(jnp.arange(rows) < num_decode, context_len[:rows], 0)
    out = (
        jnp.zeros_like(grouped)
        .at[:rows]
        .set(_decode(grouped[:rows], kv_pages, page_table[:rows], decode_context, sinks, scoring))
    )
    return _prefill(out, grouped, kv_pages, page_table, query_start, context_len, num_decode, sinks, scoring).reshape(
        T, H, D
    )


def _decode(
    q: Array,  # [S, K, G, D]
    kv_pages: Array,
    page_table: Array,
    context_len: Array,
    sinks: Array | None,  # [K, G]
    scoring: Scoring,
) -> Array:  # [S, K, G, D]
    """One token a row, all rows together, up to the longest context."""
    page = kv_pages.shape[3]
    pages_per_block = _pages_per_block(DECODE_KEYS, page)
    keys = pages_per_block * page
    dead = jnp.iinfo(jnp.int32).max
    first = (
        0
        if scoring.window is None
        else jnp.min(jnp.where(context_len > 0, context_len - scoring.window, dead), initial=dead)
    )
    query = q.astype(jnp.float32) * scoring.scale

    def block(i: Array, softmax: Softmax) -> Softmax:
        ids = lax.dynamic_slice_in_dim(page_table, i * pages_per_block, pages_per_block, axis=1)
        begun = i * keys + jnp.arange(0, keys, page) < context_len[:, None]
        ids = jnp.where(begun, ids, 0)  # past a row's context: one page for all, which the cache has
        position = i * keys + jnp.arange(keys)
        visible = position < context_len[:, None]  # [S, keys]
        if scoring.window is not None:
            visible &= position >= context_len[:, None] - scoring.window
        k, v = _gather(kv_pages, ids)
        return _accumulate(softmax, query, k, v, visible[:, None, None, :], scoring.softcap)

    low = jnp.clip(first, 0, jnp.max(context_len, initial=0)) // keys
    high = -(-jnp.max(context_len, initial=0) // keys)
    return _finish(lax.fori_loop(low, high, block, _start(q, sinks)), q.dtype)


def _prefill(
    out: Array,  # [T, K, G, D]
    q: Array,  # [T, K, G, D]
    kv_pages: Array,
    page_table: Array,
    query_start: Array,
    context_len: Array,
    num_decode: Array,
    sinks: Array | None,  # [K, G]
    scoring: Scoring,
) -> Array:  # [T, K, G, D]
    """Rows from num_decode on, one tile of TILE query tokens after another, each over its own keys only."""
    T, K, G, D = q.shape
    pages_per_block = _pages_per_block(PREFILL_KEYS, kv_pages.shape[3])
    keys = pages_per_block * kv_pages.shape[3]
    tile_tokens = min(TILE, T)
    query_len = jnp.diff(query_start)
    tiles = jnp.where(jnp.arange(query_len.size) < num_decode, 0, -(-query_len // tile_tokens))
    tile_end = jnp.cumsum(tiles)
    tiled_sinks = None if sinks is None else jnp.repeat(sinks, tile_tokens, axis=1)  # [K, G · tile]

    def tile(t: Array, out: Array) -> Array:
        row = jnp.searchsorted(tile_end, t, side="right", method="compare_all")
        begin = (t - (tile_end[row] - tiles[row])) * tile_tokens  # first token of the tile within its row
        wanted = query_start[row] + begin
        start = jnp.minimum(wanted, T - tile_tokens)  # the last tile of the batch may reach back
        token = start + jnp.arange(tile_tokens)
        mine = (token >= wanted) & (token < query_start[row + 1])
        position = context_len[row] - query_start[row + 1] + token  # [tile] absolute
        query = lax.dynamic_slice_in_dim(q, start, tile_tokens).astype(jnp.float32) * scoring.scale
        query = query.transpose(1, 2, 0, 3).reshape(K, G * tile_tokens, D)

        def block(i: Array, softmax: Softmax) -> Softmax:
            ids = lax.dynamic_slice(page_table, (row, i * pages_per_block), (1, pages_per_block))
            key = i * keys + jnp.arange(keys)
            visible = (key <= position[:, None]) & mine[:, None]  # [tile, keys]
            if scoring.window is not None:
                visible &= key > position[:, None] - scoring.window
            k, v = _gather(kv_pages, ids)
            return _accumulate(softmax, query, k[0], v[0], jnp.tile(visible, (G, 1)), scoring.softcap)

        first = context_len[row] - query_len[row] + begin
        low = 0 if scoring.window is None else jnp.maximum(first - scoring.window + 1, 0) // keys
        high = -(-jnp.minimum(first + tile_tokens, context_len[row]) // keys)
        done = _finish(lax.fori_loop(low, high, block, _start(query, tiled_sinks)), out.dtype)
        done = done.reshape(K, G, tile_tokens, D).transpose(2, 0, 1, 3)
        old = lax.dynamic_slice_in_dim(out, start, tile_tokens)
        return lax.dynamic_update_slice_in_dim(out, jnp.where(mine[:, None, None, None], done, old), start, axis=0)

    return lax.fori_loop(0, tile_end[-1], tile, out)


def _pages_per_block(keys: int, page: int) -> int:
    return -(-keys // page)


def _gather(kv_pages: Array, ids: Array) -> tuple[Array, Array]:
    """Keys and values [R, K, keys, D] in float32 of pages `ids` [R, n]."""
    _, _, K, page, D = kv_pages.shape
    R, n = ids.shape
    # Without the barrier XLA hoists a widening of the whole pool out of the loop over blocks.
    kv_pages, ids = lax.optimization_barrier((kv_pages, ids))
    tiles = kv_pages.reshape(-1, page, D)  # one tile a (page, key or value, head)
    index = ids[:, None, :] * (2 * K) + jnp.arange(K)[:, None]  # [R, K, n]

    def read(index: Array) -> Array:
        found = tiles.at[index].get(mode="promise_in_bounds")
        return found.astype(jnp.float32).reshape(R, K, n * page, D)

    return read(index), read(index + K)


def _start(query: Array, sinks: Array | None) -> Softmax:
    """No key seen yet, but the sinks, whose weight is 1 while they are the maximum."""
    top = jnp.float32(MASKED) if sinks is None else sinks.astype(jnp.float32)
    return Softmax(
        jnp.zeros(query.shape, jnp.float32),
        jnp.broadcast_to(top, query.shape[:-1]),
        jnp.full(query.shape[:-1], 0.0 if sinks is None else 1.0, jnp.float32),
    )


def _accumulate(
    softmax: Softmax,
    query: Array,  # [..., M, D] scaled
    k: Array,  # [..., keys, D]
    v: Array,  # [..., keys, D]
    visible: Array,  # [..., M or 1, keys]
    softcap: float | None,
) -> Softmax:
    """One block of keys into the running softmax. Values no query sees count as zeros: a freed page may hold NaN."""
    scores = jnp.einsum("...md,...nd->...mn", query, k, precision=lax.Precision.HIGHEST)
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    scores = jnp.where(visible, scores, MASKED)
    top = jnp.maximum(softmax.top, scores.max(-1))
    weights = jnp.where(visible, jnp.exp(scores - top[..., None]), 0.0)
    v = jnp.where(visible.any(-2)[..., None], v, 0.0)
    old = jnp.exp(softmax.top - top)
    return Softmax(
        softmax.acc * old[..., None] + jnp.einsum("...mn,...nd->...md", weights, v, precision=lax.Precision.HIGHEST),
        top,
        softmax.total * old + weights.sum(-1),
    )


def _finish(softmax: Softmax, dtype: jnp.dtype) -> Array:
    """Queries that saw no key give zeros."""
    return (softmax.acc / jnp.where(softmax.total > 0, softmax.total, 1.0)[..., None]).astype(dtype)
