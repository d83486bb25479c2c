"""Latent attention in plain jax.numpy: the specification, and what runs where nothing else does.

Called by latent_attention/__init__.py. Softmax is computed online over blocks of keys of a fixed size that start at
multiples of it, in float32, so a row's result does not depend on its company nor on how its prompt was cut into
chunks. Loops run to the longest live context, never to the capacity of the page table.
"""

import jax.numpy as jnp
from jax import Array, lax

from pallas_kernels.paged_attention.scoring import MASKED
from pallas_kernels.rope_write.reference import rotated, stored

KEYS = 32  # of one block, rounded up to whole pages
TILE = 32  # query tokens of one tile of a prompt


def write(
    q: Array,
    latents: Array,
    norm: tuple[Array, float],
    cos: Array,
    sin: Array,
    pages: Array,
    page: Array,
    offset: Array,
    heads: int,
    nope_dim: int,
    latent_scale: Array | None,
) -> tuple[Array, Array, Array]:
    """See the package."""
    (weight, eps), width = norm, pages.shape[-1]
    R = weight.shape[0]
    q, latents = q[:, : heads * (nope_dim + width - R)], latents[:, -width:]
    q = q.reshape(q.shape[0], heads, -1)
    wide = latents[:, :R].astype(jnp.float32)
    inverse = lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + eps)
    latent = (wide * inverse * weight.astype(jnp.float32)).astype(latents.dtype)
    new = jnp.concatenate([latent, rotated(latents[:, R:], cos, sin)], axis=-1)
    if latent_scale is not None:
        new = new.astype(jnp.float32) / latent_scale
    rows = pages.reshape(-1, pages.shape[-1])
    row = page * pages.shape[1] + offset
    rows = rows.at[row].set(stored(new, pages.dtype), mode="drop", unique_indices=True)
    return q[:, :, :nope_dim], rotated(q[:, :, nope_dim:], cos, sin), rows.reshape(pages.shape)


def attend(
    q: Array,  # [T, H, R]
    q_rope: Array,  # [T, H, Dr]
    pages: Array,  # [N, page, R + Dr]
    page_table: Array,  # [S, P]
    query_start: Array,  # [S+1]
    context_len: Array,  # [S]
    num_decode: Array,  # []
    *,
    decode_only: bool,
    scale: float,
) -> Array:  # [T, H, R]
    """The public function's contract, see latent_attention/__init__.py."""
    (T, H, R), S = q.shape, page_table.shape[0]
    query = jnp.concatenate([q, q_rope], axis=-1).astype(jnp.float32) * scale
    page_table = jnp.pad(page_table, ((0, 0), (0, -page_table.shape[1] % _pages_per_block(pages))))
    if decode_only:
        return _rows(query, pages, page_table, context_len[:, None], R).astype(q.dtype)
    rows = min(S, T)
    seen = jnp.where(jnp.arange(rows) < num_decode, context_len[:rows], 0)
    out = jnp.zeros(q.shape, jnp.float32).at[:rows].set(_rows(query[:rows], pages, page_table[:rows], seen[:, None], R))
    tile_tokens = min(TILE, T)
    query_len = jnp.diff(query_start)
    tiles = jnp.where(jnp.arange(S) < num_decode, 0, -(-query_len // tile_tokens))
    tile_end = jnp.cumsum(tiles)

    def tile(t: Array, out: Array) -> Array:
        row = jnp.searchsorted(tile_end, t, side="right", method="compare_all")
        wanted = query_start[row] + (t - (tile_end[row] - tiles[row])) * tile_tokens
        start = jnp.minimum(wanted, T - tile_tokens)  # the last tile of the batch may reach back
        token = start + jnp.arange(tile_tokens)
        mine = (token >= wanted) & (token < query_start[row + 1])
        seen = jnp.where(mine, context_len[row] - query_start[row + 1] + token + 1, 0)
        queries = lax.dynamic_slice_in_dim(query, start, tile_tokens).reshape(1, tile_tokens * H, -1)
        done = _rows(queries, pages, page_table[row][None], jnp.repeat(seen, H)[None], R)
        old = lax.dynamic_slice_in_dim(out, start, tile_tokens)
        done = jnp.where(mine[:, None, None], done.reshape(tile_tokens, H, R), old)
        return lax.dynamic_update_slice_in_dim(out, done, start, axis=0)

    return lax.fori_loop(0, tile_end[-1], tile, out).astype(q.dtype)


def _rows(
    query: Array,  # [B, M, R + Dr] float32, scaled
    pages: Array,
    page_table: Array,  # [B, P]
    seen: Array,  # [B, M or 1] latents that each query sees
    R: int,
) -> Array:  # [B, M, R] float32
    """All queries of each row over its latents, up to the longest context; zeros where nothing is seen."""
    n = _pages_per_block(pages)
    keys, longest = n * pages.shape[1], seen.max(-1)

    def block(i: Array, softmax: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        acc, top, total = softmax
        ids = lax.dynamic_slice_in_dim(page_table, i * n, n, axis=1)
        begun = i * keys + jnp.arange(0, keys, pages.shape[1]) < longest[:, None]
        ids = jnp.where(begun, ids, 0)  # past a row's context: one page for all, which the cache has
        visible = i * keys + jnp.arange(keys) < seen[..., None]  # [B, M or 1, keys]
        # Without the barrier XLA hoists a widening of the whole pool out of the loop.
        pool, ids = lax.optimization_barrier((pages, ids))
        k = pool.at[ids].get(mode="promise_in_bounds").astype(jnp.float32).reshape(ids.shape[0], keys, -1)
        k = jnp.where(visible.any(1)[..., None], k, 0.0)  # a freed page may hold NaN
        scores = jnp.einsum("bmd,bnd->bmn", query, k, precision=lax.Precision.HIGHEST)
        scores = jnp.where(visible, scores, MASKED)
        new = jnp.maximum(top, scores.max(-1))
        weights = jnp.where(visible, jnp.exp(scores - new[..., None]), 0.0)
        old = jnp.exp(top - new)
        mean = jnp.einsum("bmn,bnr->bmr", weights, k[..., :R], precision=lax.Precision.HIGHEST)
        return acc * old[..., None] + mean, new, total * old + weights.sum(-1)

    shape = query.shape[:2]
    start = jnp.zeros((*shape, R), jnp.float32), jnp.full(shape, MASKED, jnp.float32), jnp.zeros(shape, jnp.float32)
    acc, _, total = lax.fori_loop(0, -(-jnp.max(longest, initial=0) // keys), block, start)
    return acc / jnp.where(total > 0, total, 1.0)[..., None]


def _pages_per_block(pages: Array) -> int:
    return -(-KEYS // pages.shape[1])
