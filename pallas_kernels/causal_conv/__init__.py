"""A short causal convolution of each channel, over a ragged batch of rows that remember their last tokens.

The one entry of the op: `causal_conv`. Called by recurrent layers, inside shard_map. Runs reference.py, which XLA makes
a few kernels of, or for one token of every row a single one (kernel.py).
"""

from __future__ import annotations

from jax import Array

from pallas_kernels.backend import Backend, resolve
from pallas_kernels.causal_conv import kernel, reference

__all__ = ["causal_conv"]


def causal_conv(
    x: Array,  # [T, ..., C']: of the last axis the first C features go through it
    state: Array,  # [slots + 1, W - 1, ..., C]: each slot's last tokens, the newest last; the last slot is scratch
    weight: Array,  # [..., C, W]; the last is the token's own
    bias: Array | None,  # [..., C]
    slot: Array,  # [S] int32: no two live rows share one; scratch for dead rows
    query_start: Array,  # [S + 1] int32: row s owns the tokens query_start[s]:query_start[s + 1]
    starts: Array,  # [S] bool: before the row's first token there is nothing, whatever its slot holds
    *,
    decode_only: bool,  # T == S and row s owns token s
    silu: bool = False,  # of the sum
    backend: Backend | None = None,
) -> tuple[Array, Array]:
    """→ [T, ..., C] in x's dtype, each token's sum over itself and the W - 1 before it, in float32; and the states.

    Tokens of no row give anything finite. The states are written in place when they are donated.
    """
    offered: tuple[Backend, ...] = ("pallas", "reference") if decode_only else ("reference",)
    if resolve(backend, offered, "causal_conv") == "pallas":
        return kernel.update(x, state, weight, bias, slot, starts, silu)
    return reference.causal_conv(x, state, weight, bias, slot, query_start, starts, decode_only, silu)
