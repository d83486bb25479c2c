"""A layer's pool of latents: its size, and that every device has all of it."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxengine.cache.latent import LatentCacheSpec
from jaxengine.sharding import make_mesh

SPEC = LatentCacheSpec(rank=32, rope_dim=8, page_size=4, dtype=jnp.dtype("bfloat16"))


def test_bytes_of_a_page() -> None:
    assert SPEC.page_bytes == 4 * (32 + 8) * 2
    arrays = SPEC.arrays(5, 3)
    assert arrays.shape == SPEC.shape(5)
    assert arrays.size * arrays.dtype.itemsize == 5 * SPEC.page_bytes


def test_every_device_has_the_whole_pool() -> None:
    pool = SPEC.create(6, jax.NamedSharding(make_mesh(4), SPEC.partition_spec))
    assert SPEC.num_pages(pool) == 6
    assert {shard.data.nbytes for shard in pool.addressable_shards} == {6 * SPEC.page_bytes}
    assert not pool.any()
