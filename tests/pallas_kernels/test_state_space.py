"""Mamba 2's recurrence: chunks and kernel against one token after the other, and against the formula itself."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from pallas_kernels.state_space import reference, state_space
from tests.pallas_kernels.recurrent_rows import MIXES, Rows, decode_rows, rows_of

HEADS, P, GROUPS, N = 4, 24, 2, 16


def inputs_of(rows: Rows, dtype: Any, seed: int = 0) -> tuple[Array, ...]:
    random = np.random.default_rng(seed)

    def normal(*shape: int) -> Array:
        return jnp.asarray(random.standard_normal(shape), dtype)

    T = rows.tokens
    x, dt, a = normal(T, HEADS, P), jax.nn.softplus(normal(T, HEADS)), -jnp.exp(normal(HEADS))
    xbc = jnp.concatenate([x.reshape(T, GROUPS, -1), normal(T, GROUPS, N), normal(T, GROUPS, N)], axis=2)
    return xbc, dt, a, normal(HEADS), normal(rows.slots, HEADS, P, N)


@pytest.fixture
def x64() -> Any:
    with jax.enable_x64(True):
        yield


def test_the_reference_is_the_formula(x64: None) -> None:
    rows = rows_of([3], [False], padding=0)
    xbc, dt, a, d, state = inputs_of(rows, jnp.float64)
    x, b, c = reference.split(xbc, state)
    out, after = reference.state_space(xbc, dt, a, d, state, *rows.arguments)
    for h in range(HEADS):
        S = np.asarray(state)[int(rows.slot[0]), h]
        for t in range(3):
            step, group = float(dt[t, h]), h // 2
            S = float(np.exp(step * a[h])) * S + step * np.outer(x[t, h], b[t, group])
            np.testing.assert_allclose(out[t, h], S @ np.asarray(c)[t, group] + d[h] * x[t, h], atol=1e-12)
        np.testing.assert_allclose(after[rows.slot[0], h], S, atol=1e-12)


@pytest.mark.parametrize("mix", MIXES)
def test_chunks_are_the_steps_of_their_tokens(mix: str, x64: None) -> None:
    rows = rows_of(*MIXES[mix])
    arguments = *inputs_of(rows, jnp.float64), *rows.arguments
    expected, states = reference.state_space(*arguments)
    out, after = jax.jit(functools.partial(state_space, decode_only=False))(*arguments)
    np.testing.assert_allclose(out, expected, atol=1e-13)
    np.testing.assert_allclose(after[:-1], states[:-1], atol=1e-13)


def test_where_a_prompt_is_cut_does_not_matter() -> None:
    whole = rows_of([150], [True], padding=0)
    xbc, dt, a, d, state = inputs_of(whole, jnp.float32)
    expected, states = state_space(xbc, dt, a, d, state, *whole.arguments, decode_only=False)
    outs, begin = [], 0
    for count in (1, 37, 64, 2, 45, 1):
        rows = rows_of([count], [begin == 0], padding=0)
        part = slice(begin, begin + count)
        out, state = state_space(xbc[part], dt[part], a, d, state, *rows.arguments, decode_only=count == 1)
        outs.append(out)
        begin += count
    np.testing.assert_allclose(jnp.concatenate(outs), expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(state, states, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("backend", ["reference", "pallas"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_step_of_every_row(backend: Any, dtype: Any) -> None:
    rows = decode_rows([True, True, False, True, False], [False, True, False, False, True])
    *inputs, state = (x.astype(dtype) for x in inputs_of(rows, jnp.float32))
    state = state.astype(jnp.float32)
    expected, states = reference.state_space(*inputs, state, *rows.arguments)
    out, after = state_space(*inputs, state, *rows.arguments, decode_only=True, backend=backend)
    live = np.asarray(rows.slot) != rows.slots - 1
    assert out.dtype == dtype
    np.testing.assert_allclose(np.asarray(out, np.float32)[live], expected[live].astype(np.float32), atol=1e-5)
    np.testing.assert_allclose(after[:-1], states[:-1], atol=1e-5)
    assert np.isfinite(np.asarray(out, np.float32)).all()
    assert np.isfinite(after).all()
