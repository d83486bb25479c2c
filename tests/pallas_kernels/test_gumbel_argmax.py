"""The noise: Threefry as published, finite, and Gumbel-distributed; and the kernel against the reference."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.random import threefry_2x32
from scipy import stats

from pallas_kernels.gumbel_argmax import gumbel_argmax
from pallas_kernels.gumbel_argmax.reference import from_bits, gumbel, threefry


@pytest.mark.parametrize(
    ("key", "counter", "words"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_known_answers(key: tuple[int, int], counter: tuple[int, int], words: tuple[int, int]) -> None:
    x, y = threefry(tuple(map(jnp.uint32, key)), tuple(map(jnp.uint32, counter)))
    assert (int(x), int(y)) == words


def test_threefry_is_jax_random_s() -> None:
    counters = jnp.arange(64, dtype=jnp.uint32)
    ours = threefry((jnp.uint32(7), jnp.uint32(9)), (counters[:32], counters[32:]))
    np.testing.assert_array_equal(jnp.concatenate(ours), threefry_2x32(jnp.array([7, 9], jnp.uint32), counters))


def test_gumbel_distribution() -> None:
    noise = np.asarray(gumbel(jnp.arange(20, dtype=jnp.uint32), jnp.arange(20, dtype=jnp.uint32), 5001)).ravel()
    assert np.isfinite(noise).all()
    assert stats.kstest(noise, "gumbel_r").pvalue > 1e-3


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_shape_and_streams(size: int) -> None:
    seed, position = jnp.array([1, 2], jnp.uint32), jnp.array([3, 3], jnp.uint32)
    noise = gumbel(seed, position, size)
    assert noise.shape == (2, size)
    assert noise.dtype == jnp.float32
    assert len(np.unique(noise)) == 2 * size
    assert not np.isin(noise, gumbel(seed, position, size, stream=1)).any()


def test_extreme_bits_give_finite_noise() -> None:
    ends = np.asarray(from_bits(jnp.array([0, 1, 2**31, 2**32 - 2, 2**32 - 1], jnp.uint32)))
    assert np.isfinite(ends).all()
    assert (np.diff(ends) <= 0).all()
    assert ends[0] > 22


@pytest.mark.parametrize("backend", ["reference", "pallas"])
@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize("V", [1, 2, 3, 100, 5001])
def test_gumbel_argmax(backend: str, V: int, limited: bool) -> None:
    """Greedy and random rows, with and without a limit, some -inf, seeds of both signs."""
    S, rng = 6, np.random.default_rng(V)
    logits = np.round(rng.normal(size=(S, V)) * 3).astype(np.float32)  # ties
    logits[3, 1:] = -np.inf
    temperature = np.array([0, 0.7, 1, 2, 0, 1.3], np.float32)
    keep = np.array([-np.inf, -np.inf, 1, -np.inf, 1, -np.inf], np.float32)
    keep = np.minimum(keep, logits.max(axis=1)) if limited else None
    seed, position = rng.integers(-(2**31), 2**31, S).astype(np.int32), np.arange(S, dtype=np.int32)
    tokens = jax.jit(functools.partial(gumbel_argmax, backend=backend))(logits, temperature, keep, seed, position)
    noise = np.asarray(gumbel(seed.view(np.uint32), position.view(np.uint32), V)) * (temperature > 0)[:, None]
    kept = np.where(logits >= keep[:, None], logits, -np.inf) if keep is not None else logits
    scores = kept / np.where(temperature > 0, temperature, 1)[:, None] + noise
    assert tokens.tolist() == scores.argmax(axis=1).tolist()


@pytest.mark.parametrize("backend", ["reference", "pallas"])
def test_a_row_without_any_token_gets_some_token(backend: str) -> None:
    logits, zeros = np.full((2, 9), -np.inf, np.float32), np.zeros(2, np.int32)
    tokens = gumbel_argmax(logits, np.array([0, 1], np.float32), None, zeros, zeros, backend=backend)
    assert ((tokens >= 0) & (tokens < 9)).all()
