"""Mamba 2's recurrence on whole chunks of a row: products of matrices instead of steps (arXiv:2405.21060, 6)."""

from __future__ import annotations

import functools

import jax.numpy as jnp
from jax import Array, lax

from pallas_kernels.ragged_chunks import chunk_size, walk
from pallas_kernels.state_space.reference import split

LARGEST_CHUNK = 256

_einsum = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)


def state_space(
    xbc: Array, dt: Array, a: Array, d: Array, state: Array, slot: Array, query_start: Array, starts: Array
) -> tuple[Array, Array]:
    """See the package, but rows of one token give zeros and keep their state. → outputs in the state's dtype."""
    step = functools.partial(_chunk, a=a, d=d)
    size = chunk_size(xbc.shape[0], LARGEST_CHUNK)
    return walk(step, (xbc, dt), state.shape[1:3], state, slot, query_start, starts, size)


def _chunk(inputs: tuple[Array, ...], live: Array, state: Array, *, a: Array, d: Array) -> tuple[Array, Array]:
    xbc, dt = (y.astype(state.dtype) for y in inputs)  # [C, G, R·P + 2N], [C, H]
    x, b, c = split(xbc, state)
    (C, groups), heads = b.shape[:2], x.shape[1]
    dt = jnp.where(live[:, None], dt, 0).T  # [H, C]
    so_far = jnp.cumsum(dt * a.astype(dt.dtype)[:, None], axis=1)
    since = so_far[:, :, None] - so_far[:, None, :]  # what is left at token i of what came in at token j
    since = jnp.exp(jnp.where(jnp.tril(jnp.ones((C, C), bool)), since, -jnp.inf)) * dt[:, None, :]
    from_start = jnp.exp(so_far)
    scores = jnp.repeat(_einsum("ign,jgn->gij", c, b), heads // groups, axis=0) * since
    b, c = (jnp.repeat(y, heads // groups, axis=1) for y in (b, c))
    out = _einsum("hij,jhp->ihp", scores, x) + _einsum("ihn,hpn->ihp", c, state) * from_start.T[..., None]
    incoming = _einsum("jhn,jhp->hpn", b * since[:, -1].T[..., None], x)
    return out + x * d.astype(x.dtype)[:, None], state * from_start[:, -1, None, None] + incoming
