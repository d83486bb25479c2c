"""The Pallas kernels as compiled for the GPU, against the float64 specification."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.paged_attention import paged_attention, pages_shape
from pallas_kernels.rope_write import rope_write
from tests.pallas_kernels.ragged import make_batch, specification

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(jax.default_backend() != "gpu", reason="no GPU")]


@pytest.mark.parametrize(("dtype", "atol"), [(jnp.bfloat16, 3e-2), (jnp.float16, 4e-3), (jnp.float32, 5e-5)])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "page"),
    [
        (32, 8, 128, 16),
        (16, 8, 128, 64),
        (8, 8, 64, 16),
        (14, 2, 64, 16),
        (16, 1, 80, 16),
        (8, 2, 96, 8),
        (8, 4, 256, 16),
    ],
)
def test_mixed(dtype: jnp.dtype, atol: float, heads: int, kv_heads: int, head_dim: int, page: int) -> None:
    shape = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "page": page}
    batch = make_batch([1, 1, 300, 7, 0], [1300, 1, 300, 515, 0], tokens=512, **shape)
    for static in ({}, {"window": 100}, {"softcap": 20.0}):
        static = {"scale": head_dim**-0.5, "decode_only": False, **static}
        got = paged_attention(*batch.arrays(dtype), backend="pallas", **static)
        np.testing.assert_allclose(np.asarray(got, np.float64), specification(batch, **static), atol=atol, rtol=0)


@pytest.mark.parametrize("contexts", [[5000], [1300, 0, 7, 64], [1] * 300])
def test_decode_only(contexts: list[int]) -> None:
    batch = make_batch([1] * len(contexts), contexts, heads=32, kv_heads=8, head_dim=128)
    static = {"scale": 0.088, "decode_only": True}
    got = paged_attention(*batch.arrays(jnp.bfloat16), backend="pallas", **static)
    np.testing.assert_allclose(np.asarray(got, np.float64), specification(batch, **static), atol=3e-2, rtol=0)


def test_pages_past_four_gigabytes_are_reached() -> None:
    """Offsets of a pool of 5 GB do not fit 32 bits."""
    pages = jnp.zeros(pages_shape(80_000, 16, 8, 128), jnp.bfloat16)
    assert pages.nbytes > 2**32
    rng = np.random.default_rng(0)
    k, v = (jnp.asarray(rng.standard_normal((4, 8, 128)), jnp.bfloat16) for _ in range(2))
    page = jnp.array([79_999, 3, 70_000, 65_536])
    qkv = jnp.stack([k, k, v], axis=2)
    still = jnp.ones((4, 64)), jnp.zeros((4, 64))  # angles of 0
    write = jax.jit(lambda pages: rope_write(qkv, *still, pages, page, jnp.zeros(4, jnp.int32))[1], donate_argnums=0)
    pages = write(pages)
    q = jnp.ones((4, 32, 128), jnp.bfloat16)
    one = jnp.ones(4, jnp.int32)
    got = paged_attention(q, pages, page[:, None], jnp.arange(5), one, jnp.int32(4), decode_only=True, scale=1.0)
    np.testing.assert_array_equal(got, jnp.repeat(v, 4, axis=1))  # one key: its value
