"""What lies between the products and latent attention, as one Pallas kernel. Called by latent_attention/__init__.py.

The first programs take some tokens' latents each: normalise, rotate the shared key, store both into the page. The
others take some of the tokens' query heads apart, and rotate what turns. So no other kernel has to slice the products.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from pallas_kernels.latent_attention.tuning import write_blocks
from pallas_kernels.paged_attention.block import load, padded
from pallas_kernels.rope_write.reference import stored


def write(
    q: Array,
    latents: Array,
    norm: tuple[Array, float],
    cos: Array,
    sin: Array,
    pages: Array,
    page: Array,
    offset: Array,
    heads: int,
    nope_dim: int,
    latent_scale: Array | None,
    *,
    interpret: bool,
) -> tuple[Array, Array, Array]:
    """See the package."""
    (T, half), width = cos.shape, pages.shape[-1]
    blocks = write_blocks(T)
    q_nope, q_rope, rows = pl.pallas_call(
        functools.partial(
            _kernel, heads=heads, nope_dim=nope_dim, page_size=pages.shape[1], eps=norm[1], tokens=blocks.tokens,
            queries=blocks.heads,
        ),
        grid=(pl.cdiv(T, blocks.tokens) + pl.cdiv(T * heads, blocks.heads),),
        out_shape=(
            jax.ShapeDtypeStruct((T * heads, nope_dim), q.dtype),
            jax.ShapeDtypeStruct((T * heads, 2 * half), q.dtype),
            jax.ShapeDtypeStruct((pages.size // width, width), pages.dtype),
        ),
        input_output_aliases={0: 2},
        compiler_params=triton.CompilerParams(num_warps=blocks.warps, num_stages=1),
        interpret=interpret,
        name="write_latents",
    )(
        pages.reshape(-1, width), q, latents, norm[0].reshape(1, -1), cos, sin, page, offset,
        *(() if latent_scale is None else (latent_scale.reshape(1),)),
    )  # fmt: skip
    return q_nope.reshape(T, heads, -1), q_rope.reshape(T, heads, -1), rows.reshape(pages.shape)


def _kernel(  # type: ignore[no-untyped-def]
    _, q_ref, latents_ref, norm_ref, cos_ref, sin_ref, page_ref, offset_ref, *refs,
    heads: int, nope_dim: int, page_size: int, eps: float, tokens: int, queries: int,
):  # fmt: skip
    """Program (block of tokens' latents, or of query heads)."""
    *scale_refs, nope_ref, rope_ref, pages_ref = refs
    (T, half), R = cos_ref.shape, norm_ref.shape[1]
    program, of_latents = pl.program_id(0), pl.cdiv(T, tokens)

    def turned(ref: Any, token: Array, start: Array) -> list[Array]:
        """Both halves of the columns from `start`, one a row, rotated, in the dtype of what they are."""
        low, high = (_load(ref, token, at, half).astype(jnp.float32) for at in (start, start + half))
        cos, sin = (load(angle_ref, token, half) for angle_ref in (cos_ref, sin_ref))
        return [x.astype(ref.dtype) for x in (low * cos - high * sin, high * cos + low * sin)]

    @pl.when(program < of_latents)
    def latents() -> None:
        token = program * tokens + jnp.arange(tokens)
        inside = jnp.minimum(token, T - 1)
        first = jnp.full_like(token, latents_ref.shape[1] - R - 2 * half)
        latent = _load(latents_ref, inside, first, R).astype(jnp.float32)
        inverse = lax.rsqrt((latent * latent).sum(1) / R + eps)[:, None]
        gain = load(norm_ref, jnp.zeros_like(inside), R).astype(jnp.float32)
        latent = (latent * inverse * gain).astype(latents_ref.dtype)
        page = triton.load(page_ref.at[inside])
        row = page * page_size + triton.load(offset_ref.at[inside])
        live = (token < T) & (page < pages_ref.shape[0] // page_size)
        low, high = turned(latents_ref, inside, first + R)
        for start, columns, part in ((0, R, latent), (R, half, low), (R + half, half, high)):
            new = part.astype(jnp.float32) / scale_refs[0][0] if scale_refs else part
            _store(pages_ref, row, live, start, columns, stored(new, pages_ref.dtype))

    @pl.when(program >= of_latents)
    def query_heads() -> None:
        row = (program - of_latents) * queries + jnp.arange(queries)
        inside = jnp.minimum(row, T * heads - 1)
        token, first = inside // heads, inside % heads * (nope_dim + 2 * half)
        live = row < T * heads
        _store(nope_ref, row, live, 0, nope_dim, _load(q_ref, token, first, nope_dim))
        for i, part in enumerate(turned(q_ref, token, first + nope_dim)):
            _store(rope_ref, row, live, i * half, half, part)


def _load(ref: Any, row: Array, start: Array, columns: int) -> Array:
    """[rows, padded(columns)] from column start [rows], zeros past them."""
    shape = (row.shape[0], padded(columns))
    rows, first = (jnp.broadcast_to(x[:, None], shape) for x in (row, start))
    column = lax.broadcasted_iota(jnp.int32, shape, 1)
    return triton.load(ref.at[rows, first + column], mask=column < columns, other=0)


def _store(ref: Any, row: Array, live: Array, start: int, columns: int, value: Array) -> None:
    """The interpreter writes old values back to masked places, so those point out of the array."""
    rows = jnp.broadcast_to(jnp.where(live, row, ref.shape[0])[:, None], value.shape)
    column = lax.broadcasted_iota(jnp.int32, value.shape, 1)
    mask = jnp.broadcast_to(live[:, None], value.shape) & (column < columns)
    triton.store(ref.at[rows, start + column], value, mask=mask)
