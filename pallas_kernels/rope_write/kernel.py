"""rope_write as one Pallas kernel (Triton lowering). Called by rope_write/__init__.py.

A program takes one head of a few tokens, query, key or value alike: it loads the halves of the head, normalises and
rotates them (values pass), and stores them to the queries or into the pages.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pltriton

from pallas_kernels import backend
from pallas_kernels.rope_write.reference import stored
from pallas_kernels.rope_write.tuning import blocks


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
    (T, K, heads, D), G = qkv.shape, qkv.shape[2] - 2
    sizes = blocks(T)
    q, rows = pl.pallas_call(
        functools.partial(
            _kernel, kv_heads=K, group=G, page_size=kv_pages.shape[3], tokens=sizes.tokens, eps=eps,
            normed=norms is not None,
        ),
        grid=(pl.cdiv(T, sizes.tokens), K * heads),
        out_shape=(
            jax.ShapeDtypeStruct((T * K * G, D), qkv.dtype),
            jax.ShapeDtypeStruct((kv_pages.size // D, D), kv_pages.dtype),
        ),
        input_output_aliases={0: 1},
        compiler_params=pltriton.CompilerParams(num_warps=sizes.warps, num_stages=1),
        interpret=backend.interpret(),
        name="rope_write",
    )(
        kv_pages.reshape(-1, D), qkv.reshape(-1, D), cos, sin, page, offset, *(n.reshape(1, D) for n in norms or ()),
        *(() if kv_scale is None else (kv_scale,)),
    )  # fmt: skip
    return q.reshape(T, K * G, D), rows.reshape(kv_pages.shape)


def _kernel(  # type: ignore[no-untyped-def]
    _, qkv_ref, cos_ref, sin_ref, page_ref, offset_ref, *refs,
    kv_heads: int, group: int, page_size: int, tokens: int, eps: float, normed: bool,
):  # fmt: skip
    """Program (block of tokens, head): kv head `head // (G + 2)`, and of it query `place`, or the key, or the value."""
    *optional, q_ref, pages_ref = refs
    norm_refs, scale_refs = optional[: 2 * normed], optional[2 * normed :]
    T, D = cos_ref.shape[0], qkv_ref.shape[1]
    token = pl.program_id(0) * tokens + jnp.arange(tokens)
    inside = jnp.minimum(token, T - 1)
    head = pl.program_id(1)
    kv_head, place = head // (group + 2), head % (group + 2)

    def load(ref: Any, row: Array) -> list[Array]:
        return [_load(ref, row, start, D // 2).astype(jnp.float32) for start in (0, D // 2)]

    loaded = turned = load(qkv_ref, inside * (kv_heads * (group + 2)) + head)
    if norm_refs:
        scale = lax.rsqrt(sum((x * x).sum(1) for x in loaded) / D + eps)[:, None]
        gains = (load(ref, jnp.zeros_like(inside)) for ref in norm_refs)
        gain = [jnp.where(place < group, q, k) for q, k in zip(*gains, strict=True)]
        turned = [_rounded(x * scale * g, qkv_ref.dtype) for x, g in zip(loaded, gain, strict=True)]
    cos, sin = (_load(ref, inside, 0, D // 2) for ref in (cos_ref, sin_ref))
    turned = [turned[0] * cos - turned[1] * sin, turned[1] * cos + turned[0] * sin]
    halves = [jnp.where(place > group, x, y).astype(qkv_ref.dtype) for x, y in zip(loaded, turned, strict=True)]

    def store(ref: Any, row: Array, live: Array, halves: list[Array]) -> None:
        for i, half in enumerate(halves):
            _store(ref, row, live, i * (D // 2), D // 2, half)

    @pl.when(place < group)
    def query() -> None:
        store(q_ref, (inside * kv_heads + kv_head) * group + place, token < T, halves)

    @pl.when(place >= group)
    def key_or_value() -> None:
        page = pltriton.load(page_ref.at[inside])
        row = ((page * 2 + place - group) * kv_heads + kv_head) * page_size + pltriton.load(offset_ref.at[inside])
        new = halves
        if scale_refs:
            new = [half.astype(jnp.float32) / scale_refs[0][place - group, kv_head] for half in new]
        live = (token < T) & (page < pages_ref.shape[0] // (2 * kv_heads * page_size))
        store(pages_ref, row, live, [stored(half, pages_ref.dtype) for half in new])


def _rounded(x: Array, dtype: Any) -> Array:
    return x.astype(dtype).astype(jnp.float32)


def _load(ref: Any, row: Array, start: int, columns: int) -> Array:
    """[rows, columns padded to a power of two] from column `start`, zeros past them."""
    shape = (row.shape[0], pl.next_power_of_2(columns))
    rows, column = jnp.broadcast_to(row[:, None], shape), lax.broadcasted_iota(jnp.int32, shape, 1)
    if columns == shape[1]:
        return pltriton.load(ref.at[rows, start + column])
    return pltriton.load(ref.at[rows, start + column], mask=column < columns, other=0)


def _store(ref: Any, row: Array, live: Array, start: int, columns: int, value: Array) -> None:
    """The interpreter writes old values back to masked places, so those point out of the array."""
    rows = jnp.broadcast_to(jnp.where(live, row, ref.shape[0])[:, None], value.shape)
    column = lax.broadcasted_iota(jnp.int32, value.shape, 1)
    mask = jnp.broadcast_to(live[:, None], value.shape) & (column < columns)
    pltriton.store(ref.at[rows, start + column], value.astype(ref.dtype), mask=mask)
