"""The gated delta rule (Yang, Kautz and Hatamizadeh, arXiv:2412.06464), a token after the other: the specification."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax

EPS = 1e-6  # added to a vector's squared length before it is made 1


def gated_delta(
    qkv: Array, decay: Array, beta: Array, state: Array, slot: Array, query_start: Array, starts: Array
) -> tuple[Array, Array]:
    """See the package. Any rows, in any order."""
    S, T = slot.shape[0], qkv.shape[0]
    row = jnp.searchsorted(query_start[1:], jnp.arange(T), side="right", method="compare_all")
    live, row = row < S, jnp.minimum(row, S - 1)
    fresh = starts[row] & (jnp.arange(T) == query_start[row])

    def token(state: Array, x: tuple[Array, ...]) -> tuple[Array, Array]:
        qkv, decay, beta, live, slot, fresh = x
        before = jnp.where(fresh, 0, state[slot])
        out, after = update(qkv[None], decay[None], beta[None], before[None])
        state = state.at[slot].set(jnp.where(live, after[0], state[slot]))
        return state, jnp.where(live, out[0], 0)

    state, out = lax.scan(token, state, (qkv, decay, beta, live, slot[row], fresh))
    return out.astype(qkv.dtype), state


def update(qkv: Array, decay: Array, beta: Array, state: Array) -> tuple[Array, Array]:
    """One token of each row: qkv: [S, H', 2K + R·V], decay, beta: [S, H], state: [S, H, K, V] → outputs [S, H, V] and
    the states behind them, in the states' dtype."""
    q, k, v = split(qkv, state)
    heads = v.shape[1]
    q, k = (jnp.repeat(x, heads // x.shape[1], axis=1) for x in normalised(q, k, state.dtype))
    state = state * jnp.exp(decay.astype(state.dtype))[..., None, None]
    known = jnp.sum(state * k[..., None], axis=2)
    change = (v.astype(state.dtype) - known) * beta.astype(state.dtype)[..., None]
    state = state + k[..., None] * change[..., None, :]
    return jnp.sum(state * q[..., None], axis=2), state


def split(qkv: Array, state: Array) -> tuple[Array, Array, Array]:
    """qkv: [T, H', 2K + R·V], state: [..., H, K, V] → q, k: [T, H', K], v: [T, H, V]."""
    heads, K, V = state.shape[-3:]
    q, k, v = jnp.split(qkv, (K, 2 * K), axis=2)
    return q, k, v.reshape(qkv.shape[0], heads, V)


def normalised(q: Array, k: Array, dtype: jnp.dtype) -> tuple[Array, Array]:
    """Queries and keys [..., K] at length 1, queries over √K then, in `dtype`."""
    q, k = q.astype(dtype), k.astype(dtype)
    q, k = (x * lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + EPS) for x in (q, k))
    return q * q.shape[-1] ** -0.5, k
