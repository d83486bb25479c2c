"""Keys and values of full (or windowed) attention, in pages.

What a layer's pool is (models give one FullCacheSpec a layer, `state.py` allocates it) and what attention must know of
a step's rows (`batch.py` makes the PagedRows). The layout inside a page belongs to pallas_kernels.paged_attention.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec

from jaxengine.cache.spec import PagedCacheSpec
from jaxengine.sharding import TP
from pallas_kernels.paged_attention import KV_HEADS_AXIS, pages_shape


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PagedRows:
    """A step's rows. T tokens, S rows, P pages a row, N pages in the pool."""

    page_table: Array  # [S, P] int32, in [0, N); past the context arbitrary
    query_start: Array  # [S + 1] int32: row s owns the tokens query_start[s]:query_start[s + 1]
    context_len: Array  # [S] int32: keys that the row's last token sees, itself included; 0 for dead rows
    num_decode: Array  # [] int32: the first rows have exactly one token each
    write_page: Array  # [T] int32 page of each token's key and value; N: written nowhere
    write_offset: Array  # [T] int32 place in that page
    slot: Array  # [S] int32 slot of recurrent state; the scratch slot for dead rows
    other_groups: tuple[tuple[Array, Array], ...]  # page_table and write_page of layers in other groups (groups.py)
    decode_only: bool = field(metadata={"static": True})  # T == S and row s owns token s

    @property
    def starts(self) -> Array:
        """[S] bool: rows whose first token of this step is their request's first; dead rows too."""
        tokens = 1 if self.decode_only else self.query_start[1:] - self.query_start[:-1]
        return self.context_len <= tokens

    def of_group(self, group: int) -> PagedRows:
        """As the layers of this group see them."""
        if group == 0:
            return self
        page_table, write_page = self.other_groups[group - 1]
        return dataclasses.replace(self, page_table=page_table, write_page=write_page)

    def of_last_tokens(self) -> PagedRows:
        """The same rows, each with its last token alone, for attention: that token s is query s."""
        S = self.context_len.shape[0]
        start = jnp.arange(S + 1, dtype=jnp.int32)
        return dataclasses.replace(self, query_start=start, num_decode=jnp.int32(S), decode_only=True)


@dataclass(frozen=True)
class FullCacheSpec(PagedCacheSpec):
    """One layer's pool. Sizes are those of the whole pool, all devices of the mesh together."""

    kv_heads: int  # after replication, where there are fewer kv heads than devices
    head_dim: int
    page_size: int
    dtype: jnp.dtype
    window: int | None = None  # keys that a token sees, itself included; None: all

    def shape(self, num_pages: int) -> tuple[int, ...]:
        """See PagedCacheSpec."""
        return pages_shape(num_pages, self.page_size, self.kv_heads, self.head_dim)

    @property
    def partition_spec(self) -> PartitionSpec:
        """Pools are split over kv heads."""
        return PartitionSpec(*(TP if axis == KV_HEADS_AXIS else None for axis in range(len(self.shape(1)))))
