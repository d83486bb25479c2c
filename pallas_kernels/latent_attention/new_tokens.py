"""Attention of a row's new tokens over one another, with keys and values of their own for each head.

Called by latent_attention/__init__.py for rows of many new tokens, whose latents it has expanded: a pair of a query and
a key takes 640 operations a head then, 2,176 over latents (R 512, Dr 64, Dn and Dv 128). Rows lie one behind another,
so there are no pages here. A tile holds consecutive tokens of one row, for one head.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from pallas_kernels.paged_attention.block import LOG2E, Softmax, finish, load, start, store
from pallas_kernels.paged_attention.ragged import owners
from pallas_kernels.paged_attention.scoring import MASKED
from pallas_kernels.paged_attention.tuning import PrefillBlocks


def attend(
    q: Array,  # [T, H, Dn]
    q_rope: Array,  # [T, H, Dr]
    k: Array,  # [T, H, Dn]
    latents: Array,  # [T, R + Dr], of which the last columns are the keys' other features, the same for all heads
    v: Array,  # [T, H, Dv]
    query_start: Array,  # [S+1]
    num_decode: Array,  # []
    *,
    scale: float,
    blocks: PrefillBlocks,
    interpret: bool,
) -> tuple[Array, Array]:  # [T, H, Dv] and [T, H] float32; tokens of the first num_decode rows are left unwritten
    """Rows from num_decode on, and zeros for the tokens past query_start[-1]; with the log2 of the sums of weights."""
    (T, H, _), Dv, S = q.shape, v.shape[-1], query_start.shape[0] - 1
    rows = min(blocks.rows, max(16, pl.next_power_of_2(T)))
    tiles = -(-T // rows) + S + 1
    query_start = jnp.append(query_start, jnp.int32(T))  # row S owns what nobody owns
    counts = -(-jnp.diff(query_start) // rows)
    row, number = owners(jnp.where(jnp.arange(S + 1) < num_decode, 0, counts), tiles)
    out, weight = pl.pallas_call(
        functools.partial(_attend_tile, heads=H, rows=rows, block_keys=blocks.keys, scale=scale),
        out_shape=(jax.ShapeDtypeStruct((T * H, Dv), q.dtype), jax.ShapeDtypeStruct((T * H,), jnp.float32)),
        grid=(tiles, H),
        compiler_params=triton.CompilerParams(num_warps=blocks.warps, num_stages=blocks.stages),
        interpret=interpret,
        name="latent_attention_new_tokens",
    )(row, number * rows, query_start, *(x.reshape(T * H, -1) for x in (q, q_rope, k, v)), latents)
    return out.reshape(T, H, Dv), weight.reshape(T, H)


def _attend_tile(  # type: ignore[no-untyped-def]
    row_ref, begin_ref, start_ref, q_ref, q_rope_ref, k_ref, v_ref, latents_ref, out_ref, weight_ref,
    *, heads: int, rows: int, block_keys: int, scale: float,
):  # fmt: skip
    """Program (tile, head), the last tiles of a row first: they have the most keys."""
    tile, head = pl.num_programs(0) - 1 - pl.program_id(0), pl.program_id(1)
    row, S = row_ref[tile], start_ref.shape[0] - 2
    Dn, Dr, Dv = q_ref.shape[1], q_rope_ref.shape[1], v_ref.shape[1]

    @pl.when(row <= S)
    def live_tile() -> None:
        begin, row_start, row_end = begin_ref[tile], start_ref[row], start_ref[row + 1]
        token = begin + jnp.arange(rows)  # of the row
        mine = token < row_end - row_start
        at = (row_start + jnp.minimum(token, row_end - row_start - 1)) * heads + head
        q, q_rope = load(q_ref, at, Dn), load(q_rope_ref, at, Dr)
        end = jnp.where(row < S, jnp.minimum(begin + rows, row_end - row_start), 0)  # what nobody owns sees nothing

        def step(i: Array, softmax: Softmax, *, masked: bool) -> Softmax:
            key = i * block_keys + jnp.arange(block_keys)
            there = row_start + (jnp.minimum(key, end - 1) if masked else key)
            k, v = load(k_ref, there * heads + head, Dn), load(v_ref, there * heads + head, Dv)
            k_rope = load(latents_ref, there, Dr, start=latents_ref.shape[1] - Dr).astype(q.dtype)
            scores = (_product(q, k.T) + _product(q_rope, k_rope.T)) * (scale * LOG2E)
            return _fold(softmax, scores, v, key[None, :] <= token[:, None] if masked else None)

        whole = jnp.minimum(begin + 1, end) // block_keys  # blocks of keys that every token sees
        softmax = lax.fori_loop(0, whole, functools.partial(step, masked=False), start(rows, Dv))
        softmax = lax.fori_loop(whole, pl.cdiv(end, block_keys), functools.partial(step, masked=True), softmax)
        store(out_ref, at, finish(softmax, None), mine, Dv)
        _, top, total = softmax
        weight = jnp.where(total > 0, top + jnp.log2(total), MASKED)
        triton.store(weight_ref.at[jnp.where(mine, at, weight_ref.shape[0])], weight, mask=mine)


def _fold(softmax: Softmax, scores: Array, v: Array, visible: Array | None) -> Softmax:
    """v [keys, Dv] into the softmax by its scores [M, keys], in units of log2; visible [M, keys] or None for all."""
    acc, top, total = softmax
    shown = scores if visible is None else jnp.where(visible, scores, MASKED)
    new = jnp.maximum(top, shown.max(1))
    exponent = shown - new[:, None]
    if visible is not None:  # where nothing is visible, shown - new is 0
        exponent = jnp.where(visible, exponent, MASKED)
    weights, old = jnp.exp2(exponent), jnp.exp2(top - new)
    return acc * old[:, None] + _product(weights.astype(v.dtype), v), new, total * old + weights.sum(1)


def _product(a: Any, b: Any) -> Array:
    return triton.dot(a, b, precision=lax.Precision.HIGHEST if a.dtype == jnp.float32 else None)
