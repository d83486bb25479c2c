"""Latents of multi-head latent attention, in pages: one vector a token, which all heads share.

Models give one LatentCacheSpec a layer, `state.py` allocates it. Every device of the mesh holds all of it. The layout
inside a page belongs to pallas_kernels.latent_attention.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxengine.cache.spec import PagedCacheSpec
from pallas_kernels.latent_attention import pages_shape


@dataclass(frozen=True)
class LatentCacheSpec(PagedCacheSpec):
    """One layer's pool."""

    rank: int  # R: of what keys and values are made from
    rope_dim: int  # Dr: of the rotated key beside it
    page_size: int
    dtype: jnp.dtype

    def shape(self, num_pages: int) -> tuple[int, ...]:
        """See PagedCacheSpec."""
        return pages_shape(num_pages, self.page_size, self.rank, self.rope_dim)

    @property
    def partition_spec(self) -> PartitionSpec:
        """Pools are whole on every device."""
        return PartitionSpec()
