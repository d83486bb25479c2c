"""Attention whose heads share one latent a token, in pages (multi-head latent attention, arXiv:2405.04434, §2.1).

The op's entries, with the layout of a page beside them: `write_latents` and `head_attention` are what a model calls,
`latent_attention` is the heart of the latter. Called by jaxengine/layers/latent_attention.py inside shard_map (shapes
are per shard: heads are split, latents are on every device). Run reference.py or, as pallas_kernels/backend.py says,
write.py, decode.py for rows of few tokens, prefill.py and new_tokens.py for the others.

Layout: one array a layer, [N, page, R + Dr]: a token's normalised latent of R, which all heads' keys and values are
products of, then the rotated key of Dr that all heads share. To absorbed queries whole rows are keys, and their first R
columns values. So a row of 1 KB serves all heads, and is read once for up to 32 of them.
"""

import jax.numpy as jnp
from jax import Array, lax

from pallas_kernels.backend import Backend, interpret, resolve
from pallas_kernels.latent_attention import decode, new_tokens, prefill, reference, tuning, write


def pages_shape(num_pages: int, page_size: int, rank: int, rope_dim: int) -> tuple[int, ...]:
    """Shape of one layer's pages. rank: R, of a latent; rope_dim: Dr, of the key that turns with the position."""
    return (num_pages, page_size, rank + rope_dim)


def latent_attention(
    q: Array,  # [T, H, R] absorbed queries
    q_rope: Array,  # [T, H, Dr] their rotated parts
    pages: Array,  # [N, page, R + Dr], already containing this step's latents
    page_table: Array,  # [S, P] int32; entries past the context are arbitrary but in range [0, N)
    query_start: Array,  # [S+1] int32: row s owns tokens query_start[s]:query_start[s+1]
    context_len: Array,  # [S] int32: latents visible to the row's last token, itself included; 0 for dead rows
    num_decode: Array,  # [] int32: rows [0, num_decode) have exactly one token each, token s belongs to row s
    *,
    decode_only: bool,
    scale: float,
    latent_scale: Array | None = None,  # [] float32
    backend: Backend | None = None,
) -> Array:  # [T, H, R]
    """Causal attention of all heads over each row's own latents: the weighted means of latents, in q's dtype.

    A token sees the latents at its position and before; a score is scale · (q · latent + q_rope · key). Tokens past
    query_start[-1] and dead rows give zeros. `decode_only` (static) promises T == S and one token a row, token s of row
    s; dead rows have context_len 0. What is in pages is stored divided by `latent_scale`, for pages in a narrower dtype
    than q's.
    """
    _check(q, q_rope, pages, page_table, decode_only)
    if latent_scale is not None:  # scores are linear in queries, means in latents
        out = latent_attention(
            _scaled(q, latent_scale), _scaled(q_rope, latent_scale), pages, page_table, query_start, context_len,
            num_decode, decode_only=decode_only, scale=scale, backend=backend,
        )  # fmt: skip
        return _scaled(out, latent_scale)
    arguments = q, q_rope, pages, page_table
    rows = query_start, context_len, num_decode
    if _runs_reference(backend):
        return reference.attend(*arguments, *rows, decode_only=decode_only, scale=scale)
    T, H, _ = q.shape
    if not decode_only and not tuning.has_few_tokens(T):
        return _ragged(*arguments, *rows, before=False, scale=scale)[0]
    tile_tokens = 1 if decode_only else min(T, max(1, tuning.LANES // H))
    if decode_only:
        tiles = decode.one_token_rows(context_len, T)
    else:
        tiles = decode.tiles_of(query_start, context_len, T, tile_tokens)
    blocks = tuning.decode_blocks(pages.dtype.itemsize, tile_tokens, H)
    return decode.attend(
        *arguments, tiles, None, tile_tokens=tile_tokens, scale=scale, blocks=blocks, interpret=interpret()
    )


def head_attention(
    q: Array,  # [T, H, Dn]
    q_rope: Array,  # [T, H, Dr] their rotated parts
    k_up: Array,  # [H, Dn, R]: a head's keys are k_up · latent, and the rotated key
    v_up: Array,  # [H, Dv, R]: its values are v_up · latent
    pages: Array,  # [N, page, R + Dr], already containing this step's latents
    page: Array,  # [T] int32: where they are; anything for tokens of no row
    offset: Array,  # [T] int32
    page_table: Array,  # the rows: see latent_attention
    query_start: Array,
    context_len: Array,
    num_decode: Array,
    *,
    decode_only: bool,
    scale: float,
    backend: Backend | None = None,
) -> Array:  # [T, H, Dv]
    """Causal attention of heads with keys and values of their own, of which only latents are kept.

    Absorbed: a head's k_up is applied to its queries, and v_up to its means of latents, so that no key or value is ever
    made. Where a step has many tokens, those see one another by keys and values made for the step, and by absorption
    what their rows had before; the two are put together by the sums of their weights.
    """
    absorbed = _of_each_head("thd,hdr->thr", q, k_up)
    _check(absorbed, q_rope, pages, page_table, decode_only)
    T, R = q.shape[0], k_up.shape[-1]
    rows = query_start, context_len, num_decode
    if decode_only or tuning.has_few_tokens(T) or _runs_reference(backend):
        out = latent_attention(
            absorbed, q_rope, pages, page_table, *rows, decode_only=decode_only, scale=scale, backend=backend
        )
        return _of_each_head("thr,hdr->thd", out, v_up)
    latents = pages.reshape(-1, pages.shape[-1]).at[page * pages.shape[1] + offset].get(mode="clip").astype(q.dtype)
    k = _of_each_head("tr,hdr->thd", latents[:, :R], k_up)
    latents, k = lax.optimization_barrier((latents, k))  # else XLA makes one product of two, and one copy of weights
    v = _of_each_head("tr,hdr->thd", latents[:, :R], v_up)
    own, own_weight = new_tokens.attend(
        q, q_rope, k, latents, v, query_start, num_decode, scale=scale, interpret=interpret(),
        blocks=tuning.new_tokens_blocks(max(q.shape[-1], v.shape[-1]), q.dtype.itemsize),
    )  # fmt: skip
    means, weight = _ragged(absorbed, q_rope, pages, page_table, *rows, before=True, scale=scale)
    earlier = _of_each_head("thr,hdr->thd", means, v_up)
    share = 1 / (1 + jnp.exp2(own_weight - weight)[..., None])
    both = (own + share * (earlier.astype(jnp.float32) - own)).astype(q.dtype)
    return jnp.where(jnp.arange(T)[:, None, None] < num_decode, earlier, both)


def write_latents(
    q: Array,  # [T, H·(Dn + Dr) or more]: each head's query, whose last Dr features are to turn
    latents: Array,  # [T, R + Dr or more]: the last columns
    norm: tuple[Array, float],  # weight [R] and epsilon of the latents' RMS norm
    cos: Array,  # [T, Dr/2] float32
    sin: Array,  # [T, Dr/2] float32
    pages: Array,  # [N, page, R + Dr]
    page: Array,  # [T] int32; N or more: the latent is dropped
    offset: Array,  # [T] int32 in [0, page size)
    *,
    heads: int,  # H
    nope_dim: int,  # Dn
    latent_scale: Array | None = None,  # [] float32
    backend: Backend | None = None,
) -> tuple[Array, Array, Array]:
    """→ the queries' first features [T, H, Dn] as they are, their last ones [T, H, Dr] rotated, and the pages with
    token t's latent and key at (page[t], offset[t]).

    q and latents are products' results as they are, or one product's. Of what makes latents the first R columns are
    normalised; the others and the queries have their halves rotated into one another by the token's angles. Each step
    rounds to the dtype of what it takes. What is stored is divided by `latent_scale` where it is given, and bounded to
    what pages of eight bits can hold. The pages are written in place when they are donated. No two live tokens may
    share a place.
    """
    arguments = q, latents, norm, cos, sin, pages, page, offset, heads, nope_dim, latent_scale
    if _runs_reference(backend):
        return reference.write(*arguments)
    return write.write(*arguments, interpret=interpret())


def _ragged(
    q: Array,
    q_rope: Array,
    pages: Array,
    page_table: Array,
    query_start: Array,
    context_len: Array,
    num_decode: Array,
    *,
    before: bool,
    scale: float,
) -> tuple[Array, Array]:
    """All of what rows of one token see, and of the others' tokens all, or what their rows had before this step; with
    the log2 of the sums of weights [T, H] of the latter."""
    arguments, itemsize = (q, q_rope, pages, page_table), pages.dtype.itemsize
    done, weight = prefill.attend(
        *arguments, query_start, context_len, num_decode, before=before, scale=scale,
        blocks=tuning.prefill_blocks(itemsize), interpret=interpret(),
    )  # fmt: skip
    tiles = decode.one_token_rows(context_len, num_decode)
    done = decode.attend(
        *arguments, tiles, done, tile_tokens=1, scale=scale, interpret=interpret(),
        blocks=tuning.decode_blocks(itemsize, 1, q.shape[1]),
    )  # fmt: skip
    return done, weight


def _check(q: Array, q_rope: Array, pages: Array, page_table: Array, decode_only: bool) -> None:
    if pages.shape[-1] != q.shape[-1] + q_rope.shape[-1]:
        raise ValueError(f"queries of {q.shape[-1]} + {q_rope.shape[-1]} do not match latents of {pages.shape[-1]}")
    if decode_only and page_table.shape[0] != q.shape[0]:
        raise ValueError(f"decode_only wants one token a row, got {q.shape[0]} tokens and {page_table.shape[0]} rows")


def _runs_reference(backend: Backend | None) -> bool:
    return resolve(backend, ("pallas", "reference"), "latent_attention") == "reference"


def _of_each_head(spec: str, x: Array, weight: Array) -> Array:
    """A product with each head's own weights, summed in float32, in x's dtype."""
    precision = lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    return jnp.einsum(spec, x, weight, precision=precision, preferred_element_type=x.dtype)


def _scaled(x: Array, scale: Array) -> Array:
    return (x.astype(jnp.float32) * scale).astype(x.dtype)
