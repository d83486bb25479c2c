"""A short causal convolution of each channel, over a ragged batch of rows that remember their last tokens.

The one entry of the op: `causal_conv`. Called by recurrent layers, inside shard_map. It is a handful of multiplications
a channel, which XLA makes one kernel of, with the gathers of what a row remembers.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from pallas_kernels.ragged_chunks import replace_rows

__all__ = ["causal_conv"]


def causal_conv(
    x: Array,  # [T, C...]
    state: Array,  # [slots + 1, W - 1, C...]: each slot's last tokens, the newest last; the last slot is scratch
    weight: Array,  # [C..., W]; the last is the token's own
    bias: Array | None,  # [C...]
    slot: Array,  # [S] int32: no two live rows share one; scratch for dead rows
    query_start: Array,  # [S + 1] int32: row s owns the tokens query_start[s]:query_start[s + 1]
    starts: Array,  # [S] bool: before the row's first token there is nothing, whatever its slot holds
    *,
    decode_only: bool,  # T == S and row s owns token s
    silu: bool = False,  # of the sum
) -> tuple[Array, Array]:
    """→ [T, C...] in x's dtype, each token's sum over itself and the W - 1 before it, in float32; and the states.

    Tokens of no row give anything finite. The states are written in place when they are donated.
    """
    (T, *channels), W, S = x.shape, weight.shape[-1], slot.shape[0]
    token, start = jnp.arange(T, dtype=jnp.int32), query_start[:-1]
    if decode_only:
        row, start, count = token, token, jnp.ones((S,), jnp.int32)
    else:
        row = jnp.searchsorted(query_start[1:], token, side="right", method="compare_all")
        row, count = jnp.minimum(row, S - 1).astype(jnp.int32), query_start[1:] - start
    flat = (-1, *(1,) * len(channels))
    fresh = starts.reshape(flat)

    def back(row: Array, position: Array) -> Array:
        """What lies at a position of a row, counted from the first token of this step: negative ones are remembered."""
        now = jnp.take(x, start[row] + position, axis=0, mode="clip")
        before = state[slot[row], jnp.clip(position + W - 1, 0, W - 2)]
        before = jnp.where(fresh[row], 0, before)
        return jnp.where(position.reshape(flat) >= 0, now, before.astype(x.dtype))

    position = token - start[row]
    total = x.astype(jnp.float32) * weight[..., -1].astype(jnp.float32)
    for distance in range(1, W):
        total += back(row, position - distance).astype(jnp.float32) * weight[..., -1 - distance].astype(jnp.float32)
    total = total if bias is None else total + bias.astype(jnp.float32)
    rows = jnp.arange(S, dtype=jnp.int32)
    newest = jnp.stack([back(rows, count - distance) for distance in range(W - 1, 0, -1)], axis=1)
    return (jax.nn.silu(total) if silu else total).astype(x.dtype), replace_rows(state, slot, newest)
