"""A layer's pool: its size, its sharding, and the static part of a step's rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxengine.cache.full import FullCacheSpec, PagedRows
from jaxengine.sharding import make_mesh


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_bytes_of_a_page(dtype: str) -> None:
    spec = FullCacheSpec(kv_heads=4, head_dim=16, page_size=8, dtype=jnp.dtype(dtype))
    pool = spec.arrays(5, 3)
    assert pool.size * pool.dtype.itemsize == 5 * (2 * 4 * 16 * 8) * jnp.dtype(dtype).itemsize


def test_a_pool_is_split_over_kv_heads() -> None:
    spec = FullCacheSpec(kv_heads=4, head_dim=16, page_size=8, dtype=jnp.dtype("float32"))
    sharding = jax.NamedSharding(make_mesh(4), spec.partition_spec)
    pool = jax.device_put(jnp.zeros(spec.shape(6), spec.dtype), sharding)
    assert spec.num_pages(pool) == 6
    assert {shard.data.nbytes for shard in pool.addressable_shards} == {pool.nbytes // 4}


def test_rows_cross_jit_with_a_static_kind() -> None:
    arrays = [np.zeros(2, np.int32)] * 7
    leaves, tree = jax.tree.flatten(PagedRows(*arrays, other_groups=(), decode_only=True))
    assert len(leaves) == 7
    assert tree != jax.tree.structure(PagedRows(*arrays, other_groups=(), decode_only=False))
