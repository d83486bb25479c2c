"""The noise: Threefry as published, finite, and Gumbel-distributed."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.random import threefry_2x32
from scipy import stats

from jaxengine.noise import gumbel, threefry


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
    noise = np.asarray(gumbel(jnp.arange(20), jnp.arange(20), 5001)).ravel()
    assert np.isfinite(noise).all()
    assert stats.kstest(noise, "gumbel_r").pvalue > 1e-3


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_shape_and_streams(size: int) -> None:
    seed, position = jnp.array([1, 2]), jnp.array([3, 3])
    noise = gumbel(seed, position, size)
    assert noise.shape == (2, size)
    assert noise.dtype == jnp.float32
    assert len(np.unique(noise)) == 2 * size
    assert not np.isin(noise, gumbel(seed, position, size, stream=1)).any()


def test_extreme_bits_give_finite_noise() -> None:
    from jaxengine.noise import _gumbel

    ends = np.asarray(_gumbel(jnp.array([0, 1, 2**31, 2**32 - 2, 2**32 - 1], jnp.uint32)))
    assert np.isfinite(ends).all()
    assert (np.diff(ends) <= 0).all()
    assert ends[0] > 22
