"""The gated delta rule on whole chunks of a row: products of matrices instead of a step a token.

Within a chunk the corrections of all tokens solve one unit triangular system (the WY form of Yang et al.,
arXiv:2406.06484, with decays), whose right side needs the state before the chunk.
"""

from __future__ import annotations

import functools

import jax.numpy as jnp
from jax import Array, lax

from pallas_kernels.gated_delta.reference import normalised, split
from pallas_kernels.ragged_chunks import chunk_size, walk

LARGEST_CHUNK = 128

_einsum = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)


def gated_delta(
    qkv: Array, decay: Array, beta: Array, state: Array, slot: Array, query_start: Array, starts: Array
) -> tuple[Array, Array]:
    """See the package, but rows of one token give zeros and keep their state. → outputs in the state's dtype."""
    size, out_shape = chunk_size(qkv.shape[0], LARGEST_CHUNK), (state.shape[1], state.shape[3])
    return walk(_chunk, (qkv, decay, beta), out_shape, state, slot, query_start, starts, size)


def _chunk(inputs: tuple[Array, ...], live: Array, state: Array) -> tuple[Array, Array]:
    qkv, decay, beta = inputs  # [C, H', 2K + R·V], [C, H] twice
    q, k, v = split(qkv, state)
    (C, keys), heads, dtype = k.shape[:2], v.shape[1], state.dtype
    q, k = normalised(q, k, dtype)
    decay, beta = (jnp.where(live[:, None], x.astype(dtype), 0).T for x in (decay, beta))  # [H, C]
    q, k = (jnp.repeat(x.swapaxes(0, 1), heads // keys, axis=0) for x in (q, k))  # [H, C, K]
    v = v.astype(dtype).swapaxes(0, 1)  # [H, C, V]
    so_far = jnp.cumsum(decay, axis=1)
    since = so_far[:, :, None] - so_far[:, None, :]  # what is left at token i of what came in at token j
    since = jnp.exp(jnp.where(jnp.tril(jnp.ones((C, C), bool)), since, -jnp.inf))
    from_start = jnp.exp(so_far)[..., None]
    system = _einsum("hik,hjk->hij", k, k) * since * beta[..., None]
    known = _einsum("hik,hkv->hiv", k, state) * from_start
    change = lax.linalg.triangular_solve(
        system, (v - known) * beta[..., None], left_side=True, lower=True, unit_diagonal=True
    )
    out = _einsum("hik,hkv->hiv", q, state) * from_start
    out = out + _einsum("hij,hjv->hiv", _einsum("hik,hjk->hij", q, k) * since, change)
    to_end = since[:, -1, :, None]
    state = state * from_start[:, -1:] + _einsum("hik,hiv->hkv", k * to_end, change)
    return out.swapaxes(0, 1), state
