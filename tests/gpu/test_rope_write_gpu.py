"""The Pallas kernel of rope_write as compiled for the GPU, against the reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from jaxengine.layers.rope import Rope
from pallas_kernels.paged_attention import pages_shape
from pallas_kernels.rope_write import rope_write

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(jax.default_backend() != "gpu", reason="no GPU")]


def normal(seed: int, shape: tuple[int, ...], scale: float = 1.0) -> Array:
    return (jax.random.normal(jax.random.key(seed), shape) * scale).astype(jnp.bfloat16)


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(
    ("T", "K", "G", "D", "page_size"), [(1, 8, 4, 128, 16), (40, 8, 2, 128, 64), (1000, 2, 7, 80, 16)]
)
def test_like_the_reference(T: int, K: int, G: int, D: int, page_size: int, normed: bool) -> None:
    rng, N = np.random.default_rng(0), T + 3
    qkv, pages = normal(0, (T, K, G + 2, D), 3.0), normal(1, pages_shape(N, page_size, K, D))
    angles = Rope(D).angles(jnp.asarray(rng.integers(0, 9000, T), jnp.int32))
    page = jnp.asarray(np.where(rng.random(T) < 0.2, N, rng.permutation(N)[:T]), jnp.int32)
    offset = jnp.asarray(rng.integers(0, page_size, T), jnp.int32)
    norms = tuple(1 + normal(i, (D,), 0.1) for i in range(2)) if normed else None
    got, want = (
        rope_write(qkv, *angles, pages.copy(), page, offset, norms=norms, eps=1e-6, backend=name)
        for name in ("pallas", "reference")
    )
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(np.float64(a), np.float64(b), rtol=2e-2, atol=4e-2)
