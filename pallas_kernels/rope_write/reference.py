"""The specification in plain jnp. Called by rope_write/__init__.py."""

import jax.numpy as jnp
from jax import Array, lax


def rope_write(
    qkv: Array,
    cos: Array,
    sin: Array,
    kv_pages: Array,
    page: Array,
    offset: Array,
    norms: tuple[Array, Array] | None,
    eps: float,
    kv_scale: Array | None,
) -> tuple[Array, Array]:
    """See the package."""
    T, _, _, D = qkv.shape
    q, k, v = qkv[:, :, :-2], qkv[:, :, -2], qkv[:, :, -1]
    if norms is not None:
        squares = jnp.sum(jnp.square(qkv[:, :, :-1].astype(jnp.float32)), axis=-1, keepdims=True)
        q = _normalised(q, squares[:, :, :-1], norms[0], eps)
        k = _normalised(k, squares[:, :, -1], norms[1], eps)
    q, k = rotated(q, cos, sin), rotated(k, cos, sin)
    new = jnp.stack([k, v], axis=1)  # [T, 2, K, D]
    if kv_scale is not None:
        new = new.astype(jnp.float32) / kv_scale[:, :, None]
    return q.reshape(T, -1, D), _written(kv_pages, stored(new, kv_pages.dtype), page, offset)


def stored(x: Array, dtype: jnp.dtype) -> Array:
    """x in the dtype of pages; types of eight bits have no room for what is larger than their largest."""
    if dtype.itemsize == 1:
        largest = float(jnp.finfo(dtype).max)
        x = jnp.clip(x.astype(jnp.float32), -largest, largest)
    return x.astype(dtype)


def _written(kv_pages: Array, new: Array, page: Array, offset: Array) -> Array:
    """Rows are [D] vectors of the flattened pages, so the scatter has one index and needs no transposed copy of the
    pool."""
    _, _, K, page_size, D = kv_pages.shape
    plane = jnp.arange(2)[:, None] * K + jnp.arange(K)  # [2, K] key or value, head
    row = (page[:, None, None] * (2 * K) + plane) * page_size + offset[:, None, None]  # [T, 2, K]
    rows = kv_pages.reshape(-1, D)
    return rows.at[row].set(new, mode="drop", unique_indices=True).reshape(kv_pages.shape)


def _normalised(x: Array, squares: Array, weight: Array, eps: float) -> Array:
    scale = lax.rsqrt(squares / x.shape[-1] + eps)
    return (x.astype(jnp.float32) * scale * weight.astype(jnp.float32)).astype(x.dtype)


def rotated(x: Array, cos: Array, sin: Array) -> Array:
    """x: [T, ..., D], cos and sin: [T, D/2] → x with its halves rotated into one another, in x's dtype."""
    shape = (x.shape[0], *(1,) * (x.ndim - 2), -1)
    cos, sin = cos.reshape(shape), sin.reshape(shape)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
