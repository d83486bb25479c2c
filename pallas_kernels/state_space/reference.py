"""The state-space recurrence of Mamba 2 (Dao and Gu, arXiv:2405.21060), a token after the other: the specification."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax


def state_space(
    xbc: Array, dt: Array, a: Array, d: Array, state: Array, slot: Array, query_start: Array, starts: Array
) -> tuple[Array, Array]:
    """See the package. Any rows, in any order."""
    S, T = slot.shape[0], xbc.shape[0]
    row = jnp.searchsorted(query_start[1:], jnp.arange(T), side="right", method="compare_all")
    live, row = row < S, jnp.minimum(row, S - 1)
    fresh = starts[row] & (jnp.arange(T) == query_start[row])

    def token(state: Array, inputs: tuple[Array, ...]) -> tuple[Array, Array]:
        xbc, dt, live, slot, fresh = inputs
        before = jnp.where(fresh, 0, state[slot])
        out, after = update(xbc[None], dt[None], a, d, before[None])
        state = state.at[slot].set(jnp.where(live, after[0], state[slot]))
        return state, jnp.where(live, out[0], 0)

    state, out = lax.scan(token, state, (xbc, dt, live, slot[row], fresh))
    return out.astype(xbc.dtype), state


def update(xbc: Array, dt: Array, a: Array, d: Array, state: Array) -> tuple[Array, Array]:
    """One token of each row: xbc: [S, G, R·P + 2N], dt: [S, H], a, d: [H], state: [S, H, P, N] → outputs [S, H, P] and
    the states behind them, in the states' dtype."""
    x, b, c = split(xbc, state)
    heads, dtype = x.shape[1], state.dtype
    b, c = (jnp.repeat(y.astype(dtype), heads // y.shape[1], axis=1)[:, :, None] for y in (b, c))
    x, dt = x.astype(dtype), dt.astype(dtype)[..., None]
    state = state * jnp.exp(dt * a.astype(dtype)[:, None])[..., None] + (dt * x)[..., None] * b
    return jnp.sum(state * c, axis=-1) + x * d.astype(dtype)[:, None], state


def split(xbc: Array, state: Array) -> tuple[Array, Array, Array]:
    """xbc: [T, G, R·P + 2N], state: [..., H, P, N] → x: [T, H, P], b, c: [T, G, N]."""
    heads, P, N = state.shape[-3:]
    inner = xbc.shape[2] - 2 * N
    x, b, c = jnp.split(xbc, (inner, inner + N), axis=2)
    return x.reshape(xbc.shape[0], heads, P), b, c
