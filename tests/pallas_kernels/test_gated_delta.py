"""The gated delta rule: chunks and kernel against one token after the other, and against the formula itself."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from pallas_kernels.gated_delta import gated_delta, reference
from tests.pallas_kernels.recurrent_rows import MIXES, Rows, decode_rows, rows_of

KEYS, HEADS, K, V = 2, 4, 16, 24


def inputs_of(rows: Rows, dtype: Any, seed: int = 0) -> tuple[Array, ...]:
    random = np.random.default_rng(seed)

    def normal(*shape: int) -> Array:
        return jnp.asarray(random.standard_normal(shape), dtype)

    T = rows.tokens
    q, k, v = normal(T, KEYS, K), normal(T, KEYS, K), normal(T, HEADS, V)
    qkv = jnp.concatenate([q, k, v.reshape(T, KEYS, -1)], axis=2)
    return qkv, -jnp.exp(normal(T, HEADS) - 2), jax.nn.sigmoid(normal(T, HEADS)), normal(rows.slots, HEADS, K, V)


@pytest.fixture
def x64() -> Any:
    with jax.enable_x64(True):
        yield


def test_the_reference_is_the_formula(x64: None) -> None:
    rows = rows_of([3], [False], padding=0)
    qkv, decay, beta, state = inputs_of(rows, jnp.float64)
    q, k, v = reference.split(qkv, state)
    out, after = reference.gated_delta(qkv, decay, beta, state, *rows.arguments)
    for h in range(HEADS):
        S = np.asarray(state)[int(rows.slot[0]), h]
        for t in range(3):
            query, key = (np.asarray(x)[t, h // 2] for x in (q, k))
            query, key = query / np.linalg.norm(query) / np.sqrt(K), key / np.linalg.norm(key)
            b = float(beta[t, h])
            S = float(np.exp(decay[t, h])) * (S - b * np.outer(key, key @ S)) + b * np.outer(key, np.asarray(v)[t, h])
            np.testing.assert_allclose(out[t, h], query @ S, atol=1e-6)
        np.testing.assert_allclose(after[rows.slot[0], h], S, atol=1e-6)


@pytest.mark.parametrize("mix", MIXES)
def test_chunks_are_the_steps_of_their_tokens(mix: str, x64: None) -> None:
    rows = rows_of(*MIXES[mix])
    arguments = *inputs_of(rows, jnp.float64), *rows.arguments
    expected, states = reference.gated_delta(*arguments)
    out, after = jax.jit(functools.partial(gated_delta, decode_only=False))(*arguments)
    np.testing.assert_allclose(out, expected, atol=1e-13)
    np.testing.assert_allclose(after[:-1], states[:-1], atol=1e-13)


def test_keys_that_repeat_lose_nothing() -> None:
    """Equal keys, nothing forgotten, everything replaced: the system's inverse is harmless, its powers are not."""
    rows = rows_of([128], [True], padding=0)
    qkv, decay, beta, state = inputs_of(rows, jnp.float32)
    qkv = qkv.at[:, :, K : 2 * K].set(qkv[:1, :, K : 2 * K])
    arguments = qkv, decay * 0, beta * 0 + 1, state, *rows.arguments
    expected, states = jax.jit(reference.gated_delta)(*arguments)
    out, after = jax.jit(functools.partial(gated_delta, decode_only=False))(*arguments)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    np.testing.assert_allclose(after, states, atol=1e-5)


def test_where_a_prompt_is_cut_does_not_matter() -> None:
    whole = rows_of([150], [True], padding=0)
    qkv, decay, beta, state = inputs_of(whole, jnp.float32)
    expected, states = gated_delta(qkv, decay, beta, state, *whole.arguments, decode_only=False)
    outs, begin = [], 0
    for count in (1, 37, 64, 2, 45, 1):
        rows = rows_of([count], [begin == 0], padding=0)
        part = slice(begin, begin + count)
        out, state = gated_delta(qkv[part], decay[part], beta[part], state, *rows.arguments, decode_only=count == 1)
        outs.append(out)
        begin += count
    np.testing.assert_allclose(jnp.concatenate(outs), expected, atol=2e-6)
    np.testing.assert_allclose(state, states, atol=2e-6)


@pytest.mark.parametrize("backend", ["reference", "pallas"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_step_of_every_row(backend: Any, dtype: Any) -> None:
    rows = decode_rows([True, True, False, True, False], [False, True, False, False, True])
    *inputs, state = (x.astype(dtype) for x in inputs_of(rows, jnp.float32))
    state = state.astype(jnp.float32)
    expected, states = reference.gated_delta(*inputs, state, *rows.arguments)
    out, after = gated_delta(*inputs, state, *rows.arguments, decode_only=True, backend=backend)
    live = np.asarray(rows.slot) != rows.slots - 1
    assert out.dtype == dtype
    np.testing.assert_allclose(np.asarray(out, np.float32)[live], expected[live].astype(np.float32), atol=1e-5)
    np.testing.assert_allclose(after[:-1], states[:-1], atol=1e-5)
    assert np.isfinite(np.asarray(out, np.float32)).all()
    assert np.isfinite(after).all()
