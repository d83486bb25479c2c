"""The state-space recurrence of Mamba 2 (Dao and Gu, arXiv:2405.21060), a token after the other: the specification."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax


def state_space(
    x: Array, dt: Array, a: Array, b: Array, c: Array, d: Array, state: Array, slot: Array, query_start: Array,
    starts: Array,
) -> tuple[Array, Array]:  # fmt: skip
    """See the package. Any rows, in any order."""
    S, T = slot.shape[0], x.shape[0]
    row = jnp.searchsorted(query_start[1:], jnp.arange(T), side="right", method="compare_all")
    live, row = row < S, jnp.minimum(row, S - 1)
    fresh = starts[row] & (jnp.arange(T) == query_start[row])

    def token(state: Array, inputs: tuple[Array, ...]) -> tuple[Array, Array]:
        x, dt, b, c, live, slot, fresh = inputs
        before = jnp.where(fresh, 0, state[slot])
        out, after = update(x[None], dt[None], a, b[None], c[None], d, before[None])
        state = state.at[slot].set(jnp.where(live, after[0], state[slot]))
        return state, jnp.where(live, out[0], 0)

    state, out = lax.scan(token, state, (x, dt, b, c, live, slot[row], fresh))
    return out.astype(x.dtype), state


def update(x: Array, dt: Array, a: Array, b: Array, c: Array, d: Array, state: Array) -> tuple[Array, Array]:
    """One token of each row: x: [S, H, P], dt: [S, H], a, d: [H], b, c: [S, G, N], state: [S, H, P, N] → outputs
    [S, H, P] and the states behind them, in the states' dtype."""
    heads, dtype = x.shape[1], state.dtype
    b, c = (jnp.repeat(y.astype(dtype), heads // y.shape[1], axis=1)[:, :, None] for y in (b, c))
    x, dt = x.astype(dtype), dt.astype(dtype)[..., None]
    state = state * jnp.exp(dt * a.astype(dtype)[:, None])[..., None] + (dt * x)[..., None] * b
    return jnp.sum(state * c, axis=-1) + x * d.astype(dtype)[:, None], state
