"""The write as one scatter of rows. Called by cache_write/__init__.py."""

import jax.numpy as jnp
from jax import Array


def write(kv_pages: Array, k: Array, v: Array, page: Array, offset: Array) -> Array:
    """Rows are [D] vectors of the flattened pages, so the scatter has one index and needs no transposed copy of the
    pool."""
    _, _, K, page_size, D = kv_pages.shape
    plane = jnp.arange(2)[:, None] * K + jnp.arange(K)  # [2, K] key or value, head
    row = (page[:, None, None] * (2 * K) + plane) * page_size + offset[:, None, None]  # [T, 2, K]
    new = jnp.stack([k, v], axis=1).astype(kv_pages.dtype)  # [T, 2, K, D]
    rows = kv_pages.reshape(-1, D)
    return rows.at[row].set(new, mode="drop", unique_indices=True).reshape(kv_pages.shape)
