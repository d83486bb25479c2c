"""Rotary embedding: against complex rotation, and the lengths that dynamic scaling depends on."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from jaxengine.layers.rope import Rope, yarn_attention_factor
from pallas_kernels.rope_write.reference import rotated


def test_rotation_is_multiplication_by_a_phase() -> None:
    x = np.random.default_rng(0).normal(size=(5, 2, 3, 8)).astype(np.float32)
    positions = np.array([0, 1, 7, 100, 4095], np.int32)
    cos, sin = Rope(8).angles(jnp.asarray(positions))
    phase = np.exp(1j * positions[:, None].astype(np.float64) * 10000.0 ** (-np.arange(4) / 4))[:, None, None]
    expected = (x[..., :4] + 1j * x[..., 4:]) * phase
    found = np.asarray(rotated(jnp.asarray(x), cos, sin))
    np.testing.assert_allclose(found, np.concatenate([expected.real, expected.imag], -1), atol=2e-3)
    np.testing.assert_array_equal(found[0], x[0])


def test_scores_depend_on_distance_alone() -> None:
    rope, random = Rope(16), np.random.default_rng(0)
    q, k = (jnp.asarray(random.normal(size=(1, 16)), jnp.float32) for _ in range(2))
    near = [rotated(x, *rope.angles(jnp.array([p]))) for x, p in ((q, 12), (k, 5))]
    far = [rotated(x, *rope.angles(jnp.array([p]))) for x, p in ((q, 107), (k, 100))]
    np.testing.assert_allclose((near[0] * near[1]).sum(), (far[0] * far[1]).sum(), rtol=1e-4)


def test_dynamic_stretches_only_beyond_the_trained_length() -> None:
    rope = Rope(16, kind="dynamic", factor=2.0, original_length=32)
    positions = jnp.array([3, 3, 3], jnp.int32)
    cos, _ = rope.angles(positions, jnp.array([4, 32, 64], jnp.int32))
    plain, _ = Rope(16).angles(positions)
    np.testing.assert_allclose(cos[:2], plain[:2], rtol=1e-6)
    assert np.abs(cos[2] - plain[2]).max() > 1e-2
    assert rope.depends_on_length
    assert not Rope(16, kind="linear", factor=2.0).depends_on_length


@pytest.mark.parametrize(
    ("factor", "mscale", "all_dim", "expected"),
    [(1.0, None, None, 1.0), (4.0, None, None, 1.1386294), (4.0, 1.0, 1.0, 1.0), (40.0, 0.707, 0.0, 1.3688879)],
)
def test_yarn_attention_factor(factor: float, mscale: float | None, all_dim: float | None, expected: float) -> None:
    assert yarn_attention_factor(factor, mscale, all_dim) == pytest.approx(expected)
