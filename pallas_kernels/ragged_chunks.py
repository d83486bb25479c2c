"""Walking the rows of a ragged batch in chunks, each row with a state of its own. Used by gated_delta and state_space.

A row's chunks begin where the row begins; its state is read from its slot before a chunk and written back behind it, so
that nothing as large as the states of all rows is made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

Step = Callable[[tuple[Array, ...], Array, Array], tuple[Array, Array]]


LEAST = 64  # tokens of a chunk


def chunk_size(tokens: int, most: int) -> int:
    """Of a batch of so many tokens, a power of two: large ones mean fewer products, small ones less padding."""
    return min(most, max(LEAST, 1 << (tokens - 1).bit_length()))


class Chunks(NamedTuple):
    """The chunks of a batch, in the order of their tokens. Entries past `total` are of no row."""

    row: Array  # [n] int32
    start: Array  # [n] int32: first token
    length: Array  # [n] int32: tokens
    first: Array  # [n] bool: of its row
    total: Array  # [] int32


def chunks(query_start: Array, tokens: int, size: int) -> Chunks:
    """Rows of two tokens and more, cut from their first token on; rows of one token have none: a single step is all
    that they need. query_start: [S + 1] int32; tokens: T."""
    S = query_start.shape[0] - 1
    count = query_start[1:] - query_start[:-1]
    ends = jnp.cumsum(jnp.where(count > 1, -(-count // size), 0))
    most = tokens // size + min(S, tokens // 2)
    index = jnp.arange(most, dtype=jnp.int32)
    row = jnp.minimum(jnp.searchsorted(ends, index, side="right", method="compare_all"), S - 1).astype(jnp.int32)
    within = index - jnp.where(row > 0, ends[row - 1], 0)
    start = query_start[row] + within * size
    length = jnp.clip(query_start[row + 1] - start, 0, size)
    return Chunks(row, start, length, within == 0, ends[-1].astype(jnp.int32))


def walk(
    step: Step,
    inputs: tuple[Array, ...],  # each [T, ...]
    out_shape: tuple[int, ...],  # of one token's output
    state: Array,  # [slots + 1, ...]
    slot: Array,  # [S] int32
    query_start: Array,  # [S + 1] int32
    starts: Array,  # [S] bool
    size: int,
) -> tuple[Array, Array]:
    """→ outputs [T, ...] in the state's dtype, zeros for tokens of rows without chunks, and the state.

    step(inputs of `size` tokens, live [size] bool, state of the row) → (outputs [size, ...], the state behind them).
    Tokens that are not live belong to others: they may not change the state.
    """
    tokens = inputs[0].shape[0]
    plan = chunks(query_start, tokens, size)
    padded = tuple(jnp.pad(x, ((0, size), *((0, 0),) * (x.ndim - 1))) for x in inputs)

    def body(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        state, out = carry
        row, start = plan.row[i], plan.start[i]
        before = jnp.where(plan.first[i] & starts[row], 0, state[slot[row]])
        live = jnp.arange(size) < plan.length[i]
        mine = tuple(lax.dynamic_slice_in_dim(x, start, size) for x in padded)
        result, after = step(mine, live, before)
        result = jnp.where(live.reshape(-1, *(1,) * len(out_shape)), result, 0)
        # What lies behind the chunk's tokens belongs to chunks that come later, or to nobody.
        return state.at[slot[row]].set(after), lax.dynamic_update_slice_in_dim(out, result, start, axis=0)

    out = jnp.zeros((tokens + size, *out_shape), state.dtype)
    state, out = lax.fori_loop(0, plan.total, body, (state, out))
    return out[:tokens], state


def replace_rows(state: Array, slot: Array, rows: Array) -> Array:
    """Write rows [S, ...] to their slots, those of the scratch slot nowhere: every other slot is of one row alone."""
    scratch = state.shape[0] - 1
    apart = jnp.where(slot == scratch, scratch + 1 + jnp.arange(slot.shape[0]), slot)
    return state.at[apart].set(rows.astype(state.dtype), mode="drop", unique_indices=True)
