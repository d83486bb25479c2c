"""Linear attention by the gated delta rule, over a ragged batch of rows with a state each.

The one entry of the op: `gated_delta`. Called once a layer, inside shard_map (shapes are per shard). Rows of one token
take a single step, in a kernel that reads and writes each state once (kernel.py) or in jnp; longer rows go by chunks
(chunked.py). reference.py is the specification.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from pallas_kernels.backend import Backend, resolve
from pallas_kernels.gated_delta import chunked, kernel, reference
from pallas_kernels.ragged_chunks import replace_rows

__all__ = ["gated_delta"]


def gated_delta(
    qkv: Array,  # [T, H', 2K + R·V]: of each key head its query, its key, and the values of the R heads it serves
    decay: Array,  # [T, H] float32, at most 0: logarithm of what is kept of the state
    beta: Array,  # [T, H] float32 in [0, 1]: how far a token's value replaces what the state holds for its key
    state: Array,  # [slots + 1, H, K, V] float32; the last slot is scratch
    slot: Array,  # [S] int32: no two live rows share one; scratch for dead rows
    query_start: Array,  # [S + 1] int32: row s owns the tokens query_start[s]:query_start[s + 1]
    starts: Array,  # [S] bool: the row's state before its first token is zero, whatever its slot holds
    *,
    decode_only: bool,  # T == S and row s owns token s
    backend: Backend | None = None,
) -> tuple[Array, Array]:
    """→ outputs [T, H, V] in qkv's dtype, zeros for tokens of no row, and the states behind each row's last token; H is
    R·H'.

    With q and k at length 1 and q over √K: state ← exp(decay)·state; state ← state + k ⊗ beta·(v - kᵀ·state); output
    qᵀ·state. Computed in the state's dtype. The states are written in place when they are donated.
    """
    step = kernel.update if resolve(backend, ("pallas", "reference"), "gated_delta") == "pallas" else _update
    if decode_only:
        out, state = step(qkv, decay, beta, state, slot, starts)
        return out.astype(qkv.dtype), state
    first, single = query_start[:-1], query_start[1:] - query_start[:-1] == 1
    qkv1, decay1, beta1 = (jnp.take(x, first, axis=0, mode="clip") for x in (qkv, decay, beta))
    ones, state = step(qkv1, decay1, beta1, state, jnp.where(single, slot, state.shape[0] - 1), starts)
    out, state = chunked.gated_delta(qkv, decay, beta, state, slot, query_start, starts)
    out = out.at[jnp.where(single, first, out.shape[0])].set(ones.astype(out.dtype), mode="drop")
    return out.astype(qkv.dtype), state


def _update(qkv: Array, decay: Array, beta: Array, state: Array, slot: Array, starts: Array) -> tuple[Array, Array]:
    before = jnp.where(starts[:, None, None, None], 0, state[slot])
    out, after = reference.update(qkv, decay, beta, before)
    return out, replace_rows(state, slot, after)
