"""The short convolution: against numpy's, over steps that cut a row anywhere."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.causal_conv import causal_conv
from tests.pallas_kernels.recurrent_rows import decode_rows, rows_of

CHANNELS = (3, 5)


def whole(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """The convolution of one row from its beginning. x: [n, C...]."""
    W = weight.shape[-1]
    padded = np.concatenate([np.zeros((W - 1, *x.shape[1:]), x.dtype), x])
    out = sum(padded[i : i + len(x)] * weight[..., i] for i in range(W))
    return out if bias is None else out + bias


@pytest.mark.parametrize("width", [2, 3, 4])
@pytest.mark.parametrize("silu", [False, True])
def test_rows_remember_what_they_need_however_they_are_cut(width: int, silu: bool) -> None:
    random = np.random.default_rng(0)
    lengths, slots = [23, 9, 14], [2, 0, 4]
    rows = [random.standard_normal((n, *CHANNELS)).astype(np.float32) for n in lengths]
    weight = random.standard_normal((*CHANNELS, width)).astype(np.float32)
    bias = random.standard_normal(CHANNELS).astype(np.float32) if silu else None
    state = jnp.asarray(random.standard_normal((6, width - 1, *CHANNELS)), jnp.float32)  # left by others
    untouched = np.asarray(state[3])
    done, outs = [0, 0, 0], [[], [], []]  # type: tuple[list[int], list[list[np.ndarray]]]
    for counts in ([3, 1, 0], [1, 1, 2], [9, 0, 1], [1, 1, 1], [9, 6, 10]):
        parts = [row[n : n + count] for row, n, count in zip(rows, done, counts, strict=True)]
        ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        slot = np.array([slot if count else 5 for slot, count in zip(slots, counts, strict=True)], np.int32)
        decode_only = counts == [1, 1, 1]
        x = np.concatenate([*parts, np.ones((0 if decode_only else 4, *CHANNELS), np.float32)])
        starts = np.array([n == 0 for n in done])
        out, state = causal_conv(
            jnp.asarray(x), state, jnp.asarray(weight), bias, slot, ends, starts, decode_only=decode_only, silu=silu
        )
        for s, count in enumerate(counts):
            outs[s].append(np.asarray(out[ends[s] : ends[s] + count]))
            done[s] += count
    assert done == lengths
    for row, out in zip(rows, outs, strict=True):
        expected = whole(row, weight, bias)
        np.testing.assert_allclose(
            np.concatenate(out), jax.nn.silu(expected) if silu else expected, rtol=1e-5, atol=1e-5
        )
    np.testing.assert_array_equal(state[3], untouched)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("biased", [True, False])
def test_the_kernel_of_one_token_a_row(biased: bool, width: int, dtype: Any) -> None:
    random = np.random.default_rng(0)
    rows = decode_rows([True, True, False, True], [False, True, False, False])

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(random.standard_normal(shape), dtype)

    x, weight, state = normal(4, 30, 13), normal(30, 10, width), normal(rows.slots, width - 1, 30, 10)
    arguments = x, state, weight, normal(30, 10) if biased else None, *rows.arguments
    (expected, states), (out, after) = (
        causal_conv(*arguments, decode_only=True, silu=biased, backend=backend) for backend in ("reference", "pallas")
    )
    live = np.asarray(rows.slot) != rows.slots - 1
    np.testing.assert_allclose(
        np.asarray(out, np.float32)[live], np.asarray(expected, np.float32)[live], rtol=1e-2, atol=1e-6
    )
    np.testing.assert_array_equal(after, states)


def test_dead_rows_touch_nobody() -> None:
    rows = decode_rows([True, False, False], [False, True, True])
    state = jnp.arange(rows.slots * 3.0).reshape(rows.slots, 3, 1)
    _, after = causal_conv(jnp.ones((3, 1)), state, jnp.ones((1, 4)), None, *rows.arguments, decode_only=True)
    changed = np.flatnonzero((np.asarray(after) != np.asarray(state)).any(axis=(1, 2)))
    assert changed.tolist() == [int(rows.slot[0])]


def test_half_precision_is_summed_in_float32() -> None:
    rows = rows_of([40], [True], padding=0)
    random = np.random.default_rng(0)
    x = jnp.asarray(random.standard_normal((40, 8)), jnp.bfloat16)
    weight = jnp.asarray(random.standard_normal((8, 4)), jnp.bfloat16)
    state = jnp.zeros((rows.slots, 3, 8), jnp.bfloat16)
    out, state = causal_conv(x, state, weight, None, *rows.arguments, decode_only=False)
    assert out.dtype == state.dtype == jnp.bfloat16
    expected = whole(np.asarray(x, np.float32), np.asarray(weight, np.float32), None)
    np.testing.assert_array_equal(out, jnp.asarray(expected, jnp.bfloat16))
    np.testing.assert_array_equal(state[rows.slot[0]], x[-3:])
