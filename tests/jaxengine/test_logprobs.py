"""Logprobs against sorting in float64, and the two-round search for the largest values."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from jaxengine import logprobs


def make(S: int, V: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(S, V)).astype(np.float32) * 4, rng.integers(0, V, S).astype(np.int32)


def check(rows: logprobs.LogprobRows, x: np.ndarray, tokens: np.ndarray, k: int) -> None:
    """x: [S, V] what the values are read from, as float64."""
    order = np.argsort(-x, axis=1, kind="stable")[:, :k]
    ids = np.concatenate([tokens[:, None], order], axis=1)
    np.testing.assert_array_equal(rows.ids, ids)
    np.testing.assert_allclose(rows.values, np.take_along_axis(x, ids, axis=1), rtol=1e-5, atol=1e-5)
    own = np.take_along_axis(x, tokens[:, None], axis=1)
    np.testing.assert_array_equal(rows.rank, (x > own).sum(axis=1) + 1)


@pytest.mark.parametrize(("V", "k"), [(5, 5), (50, 0), (50, 3), (1000, 1), (6000, 20), (6000, 6000), (700, 2)])
def test_gather(V: int, k: int) -> None:
    x, tokens = make(4, V)
    rows = jax.jit(logprobs.gather, static_argnums=(3, 4))(x, x, tokens, k, "raw_logprobs")
    check(rows, log_softmax(x.astype(np.float64), axis=1), tokens, k)


@pytest.mark.parametrize("mode", ["raw_logprobs", "processed_logprobs", "raw_logits", "processed_logits"])
def test_modes(mode: str) -> None:
    raw, tokens = make(3, 300)
    processed = np.where(raw > np.sort(raw, axis=1)[:, -30:-29], raw / 0.7, -np.inf).astype(np.float32)
    tokens = processed.argmax(axis=1).astype(np.int32)
    source = (raw if mode.startswith("raw") else processed).astype(np.float64)
    expected = log_softmax(source, axis=1) if mode.endswith("logprobs") else source
    check(logprobs.gather(raw, processed, tokens, 20, mode), expected, tokens, 20)


def test_nothing_is_computed_when_no_row_wants_it() -> None:
    x, tokens = make(2, 40)
    rows = logprobs.gather(x, x, tokens, 3, any_wanted=jnp.bool_(False))
    assert rows.ids.shape == (2, 4)
    assert not np.asarray(rows.values).any()


def test_more_logprobs_than_tokens_are_cut_to_the_vocabulary() -> None:
    x, tokens = make(2, 6)
    assert logprobs.gather(x, x, tokens, 20).ids.shape == (2, 7)


def test_ranks_of_equal_values_are_equal() -> None:
    x = np.array([[3, 1, 3, 2, 1]], np.float32).repeat(5, axis=0)
    rows = logprobs.gather(x, x, np.arange(5, dtype=np.int32), 5)
    assert rows.rank.tolist() == [1, 4, 1, 3, 4]
    assert rows.ids[0, 1:].tolist() == [0, 2, 3, 1, 4]


@pytest.mark.parametrize("case", ["random", "ties", "one group", "mostly banned", "all equal"])
@pytest.mark.parametrize("k", [1, 5, 20])
def test_largest_is_exact(case: str, k: int) -> None:
    rng = np.random.default_rng(k)
    x = rng.normal(size=(5, 9001)).astype(np.float32)
    if case == "ties":
        x = np.round(x)
    elif case == "one group":
        x[:, 256:384] += 100
    elif case == "mostly banned":
        x[:, rng.permutation(9001)[3:]] = -np.inf
    elif case == "all equal":
        x[:] = 1.0
    values, places = jax.jit(logprobs.largest, static_argnums=1)(x, k)
    order = np.argsort(-x, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(places, order)
    np.testing.assert_array_equal(values, np.take_along_axis(x, order, axis=1))


@pytest.mark.parametrize(("T", "chunk"), [(10, 4), (8, 4), (3, 16), (1, 1)])
def test_prompt_logprobs(T: int, chunk: int) -> None:
    rng = np.random.default_rng(T)
    hidden, head = rng.normal(size=(T, 6)).astype(np.float32), rng.normal(size=(6, 300)).astype(np.float32)
    targets = rng.integers(0, 300, T).astype(np.int32)
    rows = jax.jit(lambda h, t: logprobs.prompt_logprobs(lambda x: x @ head, h, t, 2, chunk=chunk))(hidden, targets)
    check(rows, log_softmax((hidden.astype(np.float64) @ head), axis=1), targets, 2)


def test_prompt_logprobs_never_holds_all_logits_and_skips_chunks_without_targets() -> None:
    T, E, V, chunk = 64, 4, 4096, 4
    seen = []

    def logits_of(hidden: jax.Array) -> jax.Array:
        jax.debug.callback(lambda: seen.append(1))
        return jnp.tile(hidden, (1, V // E))

    targets = np.full(T, -1, np.int32)
    targets[[5, 60]] = 3
    program = jax.jit(lambda h, t: logprobs.prompt_logprobs(logits_of, h, t, 1, chunk=chunk))
    rows = program(np.ones((T, E), np.float32), targets)
    jax.effects_barrier()
    assert len(seen) == 2
    np.testing.assert_allclose(np.asarray(rows.values)[[5, 60]], -np.log(V), rtol=1e-5)
    quiet = jax.jit(lambda h, t: logprobs.prompt_logprobs(lambda x: jnp.tile(x, (1, V // E)), h, t, 1, chunk=chunk))
    memory = quiet.lower(np.ones((T, E), np.float32), targets).compile().memory_analysis()
    assert memory.temp_size_in_bytes < T * V * 4 / 4
