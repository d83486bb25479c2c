"""Attention in chunks: positions are cut into chunks of equal size, and tokens see no key of an earlier one (Llama 4).

Called by attention.py. Kernels need not know: a row whose tokens lie in several chunks becomes several rows, each with
the pages of its chunk alone.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import Array

from jaxengine.cache.full import PagedRows
from pallas_kernels.paged_attention.ragged import owners


def rows_in_chunks(rows: PagedRows, tokens: int, chunk: int, page_size: int) -> PagedRows:
    """The rows of a step of `tokens` tokens, for attention alone; chunk: a multiple of page_size.

    Rows stay in order, rows of one token among the first num_decode keep their place. S rows become at most S + T/2.
    """
    first_row_token, context = rows.query_start[:-1], rows.context_len
    if rows.decode_only:
        chunk_of = jnp.maximum(context - 1, 0) // chunk
        return dataclasses.replace(
            rows,
            page_table=_pages(rows.page_table, chunk_of, chunk // page_size),
            context_len=context - chunk_of * chunk,
        )
    S, counts = context.shape[0], jnp.diff(rows.query_start)
    position = context - counts  # of each row's first token
    first_chunk = position // chunk
    parts = jnp.where(counts > 0, (context - 1) // chunk - first_chunk + 1, 1)
    owner, number = owners(parts, S + min(S, tokens // 2) + tokens // chunk)
    live, row = owner < S, jnp.minimum(owner, S - 1)
    chunk_of = first_chunk[row] + number
    begin = jnp.maximum(position[row], chunk_of * chunk)
    end = jnp.minimum(context[row], (chunk_of + 1) * chunk)
    start = jnp.where(live, first_row_token[row] + begin - position[row], rows.query_start[-1])
    return dataclasses.replace(
        rows,
        page_table=_pages(rows.page_table[row], chunk_of, chunk // page_size),
        query_start=jnp.append(start, rows.query_start[-1]),
        context_len=jnp.where(live & (counts[row] > 0), end - chunk_of * chunk, 0),
    )


def _pages(table: Array, chunk_of: Array, width: int) -> Array:
    """The part of each row's page table [S, P] that holds its chunk, [S, width] or less."""
    column = chunk_of[:, None] * width + jnp.arange(min(width, table.shape[1]))
    return jnp.take_along_axis(table, jnp.minimum(column, table.shape[1] - 1), axis=1)
