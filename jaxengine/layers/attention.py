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
from jaxengine.layers.chunks import rows_in_chunks
from jaxengine.sharding import TP
from pallas_kernels.paged_attention import paged_attention
from pallas_kernels.rope_write import rope_write


def attend(
    qkv: Array,  # [T, K, G + 2, D], of each kv head its queries, its key and its value: a product's result as it is
    angles: tuple[Array, Array],  # cosines and sines, each [T, D/2] float32
    pages: Array,  # this layer's pool, split over K
    rows: PagedRows,
    *,
    norms: tuple[Array, Array] | None,  # weights [D] of the RMS norm of each head: of queries and of keys
    eps: float,  # of that norm
    sinks: Array | None = None,  # [K, G] float32: scores without a value, one a head
    cache: FullCacheSpec,
    mesh: Mesh,
    scale: float,
    softcap: float | None,
    chunk: int | None = None,  # positions of a chunk, beyond which tokens see nothing (chunks.py)
    last: Array | None = None,  # [S] int32: each row's last token, if only those attend
) -> tuple[Array, Array]:
    """Rotate, write this step's keys and values into their pages, then attend to all that each row may see.

    → ([T, H, D] or, of the last tokens, [S, H, D], split over H; the pool). Tokens that belong to no row give zeros. No
    communication.
    """
    heads = P(None, TP)

    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(heads, P(), cache.partition_spec, P(), P(), P(TP), P()),
        out_specs=(heads, cache.partition_spec),
        check_vma=False,  # kernels do not say how their results vary over the mesh
    )
    def on_device(
        qkv: Array,
        angles: tuple[Array, Array],
        pages: Array,
        rows: PagedRows,
        norms: tuple[Array, Array] | None,
        sinks: Array | None,
        last: Array | None,
    ) -> tuple[Array, Array]:
        q, pages = rope_write(qkv, *angles, pages, rows.write_page, rows.write_offset, norms=norms, eps=eps)
        if last is not None:
            q, rows = q[last], rows.of_last_tokens()
        if chunk is not None:
            rows = rows_in_chunks(rows, q.shape[0], chunk, cache.page_size)
        out = paged_attention(
            q,
            pages,
            rows.page_table,
            rows.query_start,
            rows.context_len,
            rows.num_decode,
            decode_only=rows.decode_only,
            scale=scale,
            window=cache.window,
            softcap=softcap,
            sinks=None if sinks is None else sinks.reshape(-1),
        )
        return out, pages

    return on_device(qkv, angles, pages, rows, norms, sinks, last)
