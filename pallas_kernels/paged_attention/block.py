"""One block of keys and values inside a kernel: where it lies, and its part of the softmax under way.

Shared by decode.py and prefill.py. Indices are full two-dimensional arrays, the one masked form that both the Triton
lowering and the interpreter take. A position outside the visible ones is clamped to a visible one, so what is loaded
is always a key of the row itself: a freed page may hold NaN, and NaN times a weight of zero is NaN.
"""

import math
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from pallas_kernels.paged_attention.scoring import MASKED, Scoring

LOG2E = math.log2(math.e)

Softmax = tuple[Array, Array, Array]  # weighted sum of values [M, D], maximum [M] in units of log2, sum of weights [M]


def padded(n: int) -> int:
    """The power of two that holds n: Triton has no other tensors."""
    return pl.next_power_of_2(n)


def load(ref: Any, row: Array, columns: int, start: int = 0) -> Array:
    """Rows `row` [M] of a two-dimensional ref from column `start`, [M, padded(columns)], zeros past the columns."""
    shape = (row.shape[0], padded(columns))
    rows = jnp.broadcast_to(row[:, None], shape)
    column = lax.broadcasted_iota(jnp.int32, shape, 1)
    if columns == shape[1]:
        return triton.load(ref.at[rows, start + column])
    return triton.load(ref.at[rows, start + column], mask=column < columns, other=0.0)


def store(ref: Any, row: Array, value: Array, live: Array, columns: int) -> None:
    """Write value [M, padded(columns)] to rows `row` where `live` [M]. The interpreter writes old values back to
    masked places, so those point out of the array."""
    shape = value.shape
    rows = jnp.broadcast_to(jnp.where(live, row, ref.shape[0])[:, None], shape)
    column = lax.broadcasted_iota(jnp.int32, shape, 1)
    mask = jnp.broadcast_to(live[:, None], shape) & (column < columns)
    triton.store(ref.at[rows, column], value.astype(ref.dtype), mask=mask)


def page_rows(
    table_ref: Any, row: Array, position: Array, start: Array, *, head: Array, kv_heads: int, page: int
) -> Array:
    """Rows [keys] of the flattened pages where the keys at `position` [keys] lie; the block begins at `start`."""
    keys = position.shape[0]
    if page % keys == 0:  # the block lies in one page
        pages = jnp.broadcast_to(table_ref[row, start // page], (keys,))
    else:
        pages = triton.load(table_ref.at[jnp.broadcast_to(row, (keys,)), position // page])
    return (pages * (2 * kv_heads) + head) * page + position % page


def optional_refs(refs: tuple[Any, ...], has_sinks: bool, has_scale: bool) -> tuple[Any | None, Any | None]:
    """The sinks and the scales at the head of a kernel's further refs, where it was given them."""
    return (refs[0] if has_sinks else None), (refs[has_sinks] if has_scale else None)


def scales(ref: Any, head: Array) -> tuple[Array | None, Array | None]:
    """What the stored keys and values of a kv head are to be multiplied by; ref [2, K] or None."""
    return (None, None) if ref is None else (ref[0, head], ref[1, head])


def start(rows: int, columns: int, sink: Array | None = None) -> Softmax:
    """No key seen yet; sink [rows]: a score that takes its share of the softmax and brings no value."""
    acc = jnp.zeros((rows, padded(columns)), jnp.float32)
    if sink is None:
        return acc, jnp.full((rows,), MASKED, jnp.float32), jnp.zeros((rows,), jnp.float32)
    return acc, jnp.maximum(sink * LOG2E, MASKED), jnp.where(sink > MASKED, 1.0, 0.0)


def accumulate(
    softmax: Softmax, q: Array, k: Array, v: Array, visible: Array | None, scoring: Scoring, key_scale: Array | None
) -> Softmax:
    """Fold k, v [keys, D] into the softmax of q [M, D]; visible [M, keys] or None for all of them. Keys are stored
    divided by key_scale []; that of the values is left to the end."""
    acc, top, total = softmax
    precision = lax.Precision.HIGHEST if q.dtype == jnp.float32 else None
    k, v = k.astype(q.dtype), v.astype(q.dtype)
    scores = triton.dot(q, k.T, precision=precision)
    if key_scale is not None:
        scores *= key_scale
    if scoring.softcap is None:
        factor = scoring.scale * LOG2E
    else:
        scores = jnp.tanh(scores * (scoring.scale / scoring.softcap))
        factor = scoring.softcap * LOG2E
    shown = scores if visible is None else jnp.where(visible, scores, MASKED)
    new = jnp.maximum(top, shown.max(1) * factor)
    exponent = scores * factor - new[:, None]
    if visible is not None:
        exponent = jnp.where(visible, exponent, MASKED)
    weights = jnp.exp2(exponent)
    old = jnp.exp2(top - new)
    acc = acc * old[:, None] + triton.dot(weights.astype(v.dtype), v, precision=precision)
    return acc, new, total * old + weights.sum(1)


def finish(softmax: Softmax, value_scale: Array | None) -> Array:
    """The weighted mean [M, D]; zeros where no key was seen."""
    acc, _, total = softmax
    mean = acc / jnp.where(total > 0, total, 1.0)[:, None]
    return mean if value_scale is None else mean * value_scale
