"""Mamba 2's selective state space, over a ragged batch of rows with a state each.

The one entry of the op: `state_space`. Called once a layer, inside shard_map (shapes are per shard). Rows of one token
take a single step, in a kernel that reads and writes each state once (kernel.py) or in jnp; longer rows go by chunks
(chunked.py). reference.py is the specification.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from pallas_kernels.backend import Backend, resolve
from pallas_kernels.ragged_chunks import replace_rows
from pallas_kernels.state_space import chunked, kernel, reference

__all__ = ["state_space"]


def state_space(
    xbc: Array,  # [T, G, R·P + 2N]: of each group the x of its R heads, its b and its c
    dt: Array,  # [T, H] float32, at least 0: how long a step is
    a: Array,  # [H] float32, at most 0
    d: Array,  # [H] float32: how much of x passes by
    state: Array,  # [slots + 1, H, P, N] float32; the last slot is scratch
    slot: Array,  # [S] int32: no two live rows share one; scratch for dead rows
    query_start: Array,  # [S + 1] int32: row s owns the tokens query_start[s]:query_start[s + 1]
    starts: Array,  # [S] bool: the row's state before its first token is zero, whatever its slot holds
    *,
    decode_only: bool,  # T == S and row s owns token s
    backend: Backend | None = None,
) -> tuple[Array, Array]:
    """→ outputs [T, H, P] in xbc's dtype, zeros for tokens of no row, and the states behind each row's last token; H is
    R·G.

    state ← exp(dt·a)·state + dt·x ⊗ b; output state·c + d·x. Computed in the state's dtype. The states are written in
    place when they are donated.
    """
    step = kernel.update if resolve(backend, ("pallas", "reference"), "state_space") == "pallas" else _update
    if decode_only:
        out, state = step(xbc, dt, a, d, state, slot, starts)
        return out.astype(xbc.dtype), state
    first, single = query_start[:-1], query_start[1:] - query_start[:-1] == 1
    xbc1, dt1 = (jnp.take(y, first, axis=0, mode="clip") for y in (xbc, dt))
    ones, state = step(xbc1, dt1, a, d, state, jnp.where(single, slot, state.shape[0] - 1), starts)
    out, state = chunked.state_space(xbc, dt, a, d, state, slot, query_start, starts)
    out = out.at[jnp.where(single, first, out.shape[0])].set(ones.astype(out.dtype), mode="drop")
    return out.astype(xbc.dtype), state


def _update(xbc: Array, dt: Array, a: Array, d: Array, state: Array, slot: Array, starts: Array) -> tuple[Array, Array]:
    before = jnp.where(starts[:, None, None, None], 0, state[slot])
    out, after = reference.update(xbc, dt, a, d, before)
    return out, replace_rows(state, slot, after)
