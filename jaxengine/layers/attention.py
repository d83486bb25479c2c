"""Attention over pages on a mesh: each device writes and reads the pages of its own kv heads.

Called by the models once a layer; calls the kernels, which know nothing of meshes.
"""

from __future__ import annotations

import functools

import jax
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxengine.cache.full import FullCacheSpec, PagedRows
from jaxengine.sharding import TP
from pallas_kernels.cache_write import cache_write
from pallas_kernels.paged_attention import paged_attention


def attend(
    q: Array,  # [T, K, G, D], query heads grouped by their kv head
    k: Array,  # [T, K, D]
    v: Array,  # [T, K, D]
    pages: Array,  # this layer's pool, split over K
    rows: PagedRows,
    *,
    cache: FullCacheSpec,
    mesh: Mesh,
    scale: float,
    softcap: float | None = None,
) -> tuple[Array, Array]:
    """Write this step's keys and values into their pages, then attend to all that each row may see.

    → ([T, H, D] split over H, the pool). Tokens that belong to no row give zeros. No communication.
    """
    heads = P(None, TP)

    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(heads, heads, heads, cache.partition_spec, P()),
        out_specs=(heads, cache.partition_spec),
        check_vma=False,  # kernels do not say how their results vary over the mesh
    )
    def on_device(q: Array, k: Array, v: Array, pages: Array, rows: PagedRows) -> tuple[Array, Array]:
        pages = cache_write(pages, k.astype(pages.dtype), v.astype(pages.dtype), rows.write_page, rows.write_offset)
        out = paged_attention(
            q.reshape(q.shape[0], -1, q.shape[-1]),
            pages,
            rows.page_table,
            rows.query_start,
            rows.context_len,
            rows.num_decode,
            decode_only=rows.decode_only,
            scale=scale,
            window=cache.window,
            softcap=softcap,
        )
        return out, pages

    return on_device(q, k, v, pages, rows)
