"""Recurrent ops as compiled for the GPU, at the sizes of published models, against a token after the other."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from pallas_kernels import gated_delta, state_space
from pallas_kernels.causal_conv import causal_conv
from tests.pallas_kernels.recurrent_rows import MIXES, Rows, decode_rows, rows_of

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(jax.default_backend() != "gpu", reason="no GPU")]

DECODE = decode_rows([row % 5 != 3 for row in range(200)], [row % 7 == 0 for row in range(200)])
ROWS = {mix: rows_of(*MIXES[mix]) for mix in MIXES} | {"decode": DECODE}


def normal(seed: int, *shape: int) -> Array:
    return jax.random.normal(jax.random.key(seed), shape)


def check(run: Any, reference: Any, inputs: tuple[Array, ...], state: Array, rows: Rows, atol: float) -> None:
    expected, states = jax.jit(reference)(*inputs, state, *rows.arguments)
    step = jax.jit(
        lambda state, *rest: run(*rest[:-3], state, *rest[-3:], decode_only=rows is DECODE), donate_argnums=0
    )
    out, after = step(state, *inputs, *rows.arguments)
    if rows is DECODE:  # dead rows give anything
        live = np.asarray(rows.slot) != rows.slots - 1
        out, expected = out[live], expected[live]
    np.testing.assert_allclose(np.asarray(out, np.float32), np.asarray(expected, np.float32), atol=atol, rtol=1e-2)
    np.testing.assert_allclose(after[:-1], states[:-1], atol=atol, rtol=1e-3)


@pytest.mark.parametrize("mix", ROWS)
def test_gated_delta(mix: str) -> None:
    rows = ROWS[mix]
    T, (keys, heads, K, V) = rows.tokens, (16, 32, 128, 128)
    qkv = normal(0, T, keys, 2 * K + heads // keys * V).astype(jnp.bfloat16)
    inputs = qkv, -jnp.exp(normal(1, T, heads) - 2), jax.nn.sigmoid(normal(2, T, heads))
    state = normal(3, rows.slots, heads, K, V)
    check(gated_delta.gated_delta, gated_delta.reference.gated_delta, inputs, state, rows, atol=1e-3)


@pytest.mark.parametrize("groups", [8, 1])
@pytest.mark.parametrize("mix", ROWS)
def test_state_space(mix: str, groups: int) -> None:
    rows = ROWS[mix]
    T, (heads, P, N) = rows.tokens, (128, 64, 128)
    xbc = normal(0, T, groups, heads // groups * P + 2 * N).astype(jnp.bfloat16)
    inputs = xbc, jax.nn.softplus(normal(1, T, heads)), -jnp.exp(normal(2, heads)), normal(3, heads)
    state = normal(4, rows.slots, heads, P, N)
    check(state_space.state_space, state_space.reference.state_space, inputs, state, rows, atol=5e-2)


def test_causal_conv() -> None:
    x, weight = normal(0, DECODE.tokens, 16, 772).astype(jnp.bfloat16), normal(1, 16, 512, 4).astype(jnp.bfloat16)
    state = normal(2, DECODE.slots, 3, 16, 512).astype(jnp.bfloat16)
    (expected, states), (out, after) = (
        causal_conv(x, state, weight, None, *DECODE.arguments, decode_only=True, silu=True, backend=backend)
        for backend in ("reference", "pallas")
    )
    live = np.asarray(DECODE.slot) != DECODE.slots - 1
    np.testing.assert_allclose(
        np.asarray(out, np.float32)[live], np.asarray(expected, np.float32)[live], atol=2e-2, rtol=1e-2
    )
    np.testing.assert_array_equal(after[:-1], states[:-1])
