"""The convolution in plain jnp: of any rows, for any machine."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax

from pallas_kernels.ragged_chunks import replace_rows


def causal_conv(
    x: Array,
    state: Array,
    weight: Array,
    bias: Array | None,
    slot: Array,
    query_start: Array,
    starts: Array,
    decode_only: bool,
    silu: bool,
) -> tuple[Array, Array]:
    """See the package."""
    x = x[..., : state.shape[-1]]
    (T, *channels), W, S = x.shape, weight.shape[-1], slot.shape[0]
    token, start = jnp.arange(T, dtype=jnp.int32), query_start[:-1]
    if decode_only:
        row, start, count = token, token, jnp.ones((S,), jnp.int32)
    else:
        row = jnp.searchsorted(query_start[1:], token, side="right", method="compare_all")
        row, count = jnp.minimum(row, S - 1).astype(jnp.int32), query_start[1:] - start
    flat = (-1, *(1,) * len(channels))
    remembered = jnp.where(starts.reshape(*flat, 1), 0, state[slot])  # [S, W - 1, ..., C]
    remembered = lax.optimization_barrier(remembered)  # else XLA keeps a copy of all states to read from

    def back(row: Array, position: Array) -> Array:
        """What lies at a position of a row, counted from the first token of this step: negative ones are remembered."""
        now = jnp.take(x, start[row] + position, axis=0, mode="clip")
        before = remembered[row, jnp.clip(position + W - 1, 0, W - 2)]
        return jnp.where(position.reshape(flat) >= 0, now, before.astype(x.dtype))

    position = token - start[row]
    total = x.astype(jnp.float32) * weight[..., -1].astype(jnp.float32)
    for distance in range(1, W):
        total += back(row, position - distance).astype(jnp.float32) * weight[..., -1 - distance].astype(jnp.float32)
    total = total if bias is None else total + bias.astype(jnp.float32)
    rows = jnp.arange(S, dtype=jnp.int32)
    newest = jnp.stack([back(rows, count - distance) for distance in range(W - 1, 0, -1)], axis=1)
    return (jax.nn.silu(total) if silu else total).astype(x.dtype), replace_rows(state, slot, newest)
