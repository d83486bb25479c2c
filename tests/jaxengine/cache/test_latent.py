"""A layer's pool of latents: its size, and that every device has all of it."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxengine.cache.latent import LatentCacheSpec
from jaxengine.sharding import make_mesh

SPEC = LatentCacheSpec(rank=32, rope_dim=8, page_size=4, dtype=jnp.dtype("bfloat16"))
PAGE_BYTES = 4 * (32 + 8) * 2


def test_bytes_of_a_page() -> None:
    arrays = SPEC.arrays(5, 3)
    assert arrays.shape == SPEC.shape(5)
    assert arrays.size * arrays.dtype.itemsize == 5 * PAGE_BYTES


def test_every_device_has_the_whole_pool() -> None:
    sharding = jax.NamedSharding(make_mesh(4), SPEC.partition_spec)
    pool = jax.device_put(jnp.zeros(SPEC.shape(6), SPEC.dtype), sharding)
    assert SPEC.num_pages(pool) == 6
    assert {shard.data.nbytes for shard in pool.addressable_shards} == {6 * PAGE_BYTES}
