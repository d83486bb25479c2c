"""The product of one token as a Pallas kernel, against XLA's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from pallas_kernels.matmul import one_token, reference


def normal(seed: int, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
    return jax.random.normal(jax.random.key(seed), shape).astype(dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)])
@pytest.mark.parametrize(("parts", "outputs", "inputs"), [(1, 37, 90), (2, 24, 130), (1, 16, 4100)])
@pytest.mark.parametrize(("normed", "added"), [(False, False), (True, False), (False, True), (True, True)])
def test_like_the_reference(
    parts: int, outputs: int, inputs: int, normed: bool, added: bool, dtype: jnp.dtype, tolerance: float
) -> None:
    x, weight = normal(0, (1, inputs), dtype), normal(1, (parts, outputs, inputs), dtype) / inputs**0.5
    norm = normal(2, (inputs,), dtype) if normed else None
    residual = normal(3, (1, outputs), dtype) if added else None
    got, want = (op.product(x, weight, norm, residual, eps=1e-6, dtype=dtype) for op in (one_token, reference))
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    np.testing.assert_allclose(np.float32(got), np.float32(want), rtol=tolerance, atol=tolerance)


def test_one_token_and_a_small_weight_suit_it() -> None:
    x = jnp.ones((2, 1024), jnp.bfloat16)
    small, large = (jax.ShapeDtypeStruct((F, 1024), jnp.bfloat16) for F in (6144, 151936))
    assert one_token.suits(x[:1], small, jnp.bfloat16)
    assert not one_token.suits(x, small, jnp.bfloat16)
    assert not one_token.suits(x[:1], large, jnp.bfloat16)
    assert not one_token.suits(x[:1], small, jnp.float32)
