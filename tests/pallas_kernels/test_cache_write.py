"""Writing keys and values into pages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.cache_write import cache_write
from pallas_kernels.paged_attention import paged_attention, pages_shape
from tests.pallas_kernels.ragged import make_batch, specification


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_writes_each_token_to_its_place_and_drops_the_rest(dtype: jnp.dtype) -> None:
    rng = np.random.default_rng(0)
    pages = rng.standard_normal(pages_shape(5, 4, 2, 8))
    k, v = rng.standard_normal((2, 6, 2, 8))
    page, offset = np.array([0, 3, 5, 4, 5, 99]), np.array([3, 0, 1, 2, 1, 0])
    want = pages.copy()
    for t in (0, 1, 3):
        want[page[t], 0, :, offset[t]] = k[t]
        want[page[t], 1, :, offset[t]] = v[t]
    got = jax.jit(cache_write)(*(jnp.asarray(x, dtype) for x in (pages, k, v)), jnp.int32(page), jnp.int32(offset))
    np.testing.assert_array_equal(got, jnp.asarray(want, dtype))


def test_is_in_place_when_donated() -> None:
    pages = jnp.zeros(pages_shape(64, 16, 2, 32))
    args = (jnp.ones((3, 2, 32)), jnp.ones((3, 2, 32)), jnp.arange(3), jnp.arange(3))
    compiled = jax.jit(cache_write, donate_argnums=0).lower(pages, *args).compile()
    assert compiled.memory_analysis().alias_size_in_bytes == pages.nbytes
    assert compiled.memory_analysis().temp_size_in_bytes < pages.nbytes // 8


def test_what_is_written_is_read() -> None:
    """A prompt written in two chunks and attended to equals the specification over the same keys and values."""
    batch = make_batch([20], [50])
    kv = batch.kv_pages[batch.page_table[0, np.arange(50) // 16], :, :, np.arange(50) % 16]  # [50, 2, K, D]
    pages = jnp.full(batch.kv_pages.shape, jnp.nan)
    for chunk in (slice(0, 30), slice(30, 50)):
        at = np.arange(50)[chunk]
        pages = cache_write(pages, kv[chunk, 0], kv[chunk, 1], jnp.asarray(batch.page_table[0, at // 16]), at % 16)
    q, _, *rest = batch.arrays()
    got = paged_attention(q, pages, *rest, decode_only=False, scale=0.2)
    np.testing.assert_allclose(got, specification(batch, scale=0.2), atol=2e-5)
