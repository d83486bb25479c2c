"""Latents of multi-head latent attention, in pages: one vector a token, which all heads share.

Models give one LatentCacheSpec a layer, `state.py` allocates it. Every device of the mesh holds all of it. The layout
inside a page belongs to pallas_kernels.latent_attention.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from pallas_kernels.latent_attention import pages_shape


@dataclass(frozen=True)
class LatentCacheSpec:
    """One layer's pool."""

    rank: int  # R: of what keys and values are made from
    rope_dim: int  # Dr: of the rotated key beside it
    page_size: int
    dtype: jnp.dtype

    def shape(self, num_pages: int) -> tuple[int, ...]:
        """Shape of a pool of num_pages pages."""
        return pages_shape(num_pages, self.page_size, self.rank, self.rope_dim)

    def arrays(self, num_pages: int, slots: int) -> jax.ShapeDtypeStruct:
        """The pool of num_pages pages; slots do not matter."""
        return jax.ShapeDtypeStruct(self.shape(num_pages), self.dtype)

    def num_pages(self, pool: Array) -> int:
        """N of a pool made by this spec."""
        return math.prod(pool.shape) // math.prod(self.shape(1))

    @property
    def page_bytes(self) -> int:
        """Bytes of one page of this layer."""
        return math.prod(self.shape(1)) * self.dtype.itemsize

    @property
    def partition_spec(self) -> PartitionSpec:
        """Pools are whole on every device."""
        return PartitionSpec()

    def create(self, num_pages: int, sharding: NamedSharding) -> Array:
        """A zeroed pool, allocated in place on the sharding's devices."""
        return jax.jit(functools.partial(jnp.zeros, self.shape(num_pages), self.dtype), out_shardings=sharding)()
