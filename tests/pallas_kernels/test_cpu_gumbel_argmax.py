"""The CPU kernel of gumbel_argmax against the reference: the same noise, and so the same tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.gumbel_argmax import cpu, reference


@pytest.mark.parametrize("size", [1, 2, 3, 31, 33, 1000, 4097])
@pytest.mark.parametrize("cut", [False, True])
def test_like_the_reference(size: int, cut: bool) -> None:
    rng = np.random.default_rng(size)
    S = 40
    logits = (3 * rng.standard_normal((S, size))).astype(np.float32)
    logits[:, rng.integers(0, size, size // 3)] = -np.inf
    logits[:, -1] = rng.standard_normal(S)  # no row is empty
    temperature = np.where(rng.random(S) < 0.3, 0, 2 * rng.random(S)).astype(np.float32)
    keep = np.quantile(logits, 0.7, axis=1, method="lower").astype(np.float32) if cut else None
    seed, position = rng.integers(-(2**31), 2**31, (2, S)).astype(np.int32)
    given = jnp.asarray(logits), temperature, keep, seed, position
    np.testing.assert_array_equal(jax.jit(cpu.gumbel_argmax)(*given), jax.jit(reference.gumbel_argmax)(*given))


def test_of_equal_logits_the_first() -> None:
    logits = jnp.asarray(np.random.default_rng(0).integers(0, 3, (30, 500)), jnp.float32)
    zeros = jnp.zeros(30, jnp.int32)
    got = cpu.gumbel_argmax(logits, jnp.zeros(30), None, zeros, zeros)
    np.testing.assert_array_equal(got, logits.argmax(-1))


def test_noise_is_gumbel_s() -> None:
    """Over equal logits every token is as likely as any other."""
    S, V = 4000, 10
    position = jnp.arange(S, dtype=jnp.int32)
    got = cpu.gumbel_argmax(jnp.zeros((S, V)), jnp.ones(S), None, jnp.full(S, 7, jnp.int32), position)
    counts = np.bincount(got, minlength=V)
    assert counts.sum() == S
    assert np.abs(counts - S / V).max() < 5 * (S / V) ** 0.5
