"""One token's product as a Pallas kernel (Triton lowering): a program reads a few rows of the weight, from end to end.

Called by matmul/__init__.py. Matrix units want sixteen tokens and rows staged in shared memory; for one token plain
multiplications straight from wide loads do, and norm, gate and residual need no kernels of their own.
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
from pallas_kernels.matmul.tuning import LARGEST, UNROLLED, RowBlocks, row_blocks


def suits(x: Array, weight: Array, dtype: jnp.dtype) -> bool:
    """Whether the kernel takes x [T, inputs...] and the weight, with a result in `dtype`, and is the faster one."""
    halves = all(jnp.dtype(kind).itemsize == 2 for kind in (x.dtype, weight.dtype, dtype))
    return x.shape[0] == 1 and halves and weight.size <= LARGEST


def product(
    x: Array,  # [1, E]
    weight: Array,  # [C, F, E]; C = 2 with an activation: gate, then up
    norm: Array | None,  # [E]
    residual: Array | None,  # [1, F]
    *,
    eps: float,
    dtype: jnp.dtype,
) -> Array:  # [1, F]
    """See reference.py. With C = 2 the activation is silu."""
    C, F, E = weight.shape
    blocks = row_blocks(E)
    extra = {name: a.reshape(-1) for name, a in {"norm": norm, "residual": residual}.items() if a is not None}
    out = pl.pallas_call(
        functools.partial(_kernel, given=tuple(extra), C=C, eps=eps, blocks=blocks),
        grid=(pl.cdiv(F, blocks.outputs),),
        out_shape=jax.ShapeDtypeStruct((F,), dtype),
        compiler_params=pltriton.CompilerParams(num_warps=blocks.warps, num_stages=1),
        interpret=backend.interpret(),
        name="matmul_one_token",
    )(x.reshape(E), weight.reshape(C * F, E), *extra.values())
    return out[None]


def _kernel(  # type: ignore[no-untyped-def]
    x_ref, weight_ref, *refs, given: tuple[str, ...], C: int, eps: float, blocks: RowBlocks
):  # fmt: skip
    """Program f: the outputs from f · blocks.outputs on."""
    *rest, out_ref = refs
    extra = dict(zip(given, rest, strict=True))
    E, F, dtype = x_ref.shape[0], out_ref.shape[0], out_ref.dtype
    output = pl.program_id(0) * blocks.outputs + jnp.arange(blocks.outputs)
    inside = jnp.minimum(output, F - 1)  # past the end: the last one again
    scale = None
    if "norm" in extra:
        whole = _load(x_ref, jnp.arange(pl.next_power_of_2(E)))
        scale = lax.rsqrt((whole * whole).sum() / E + eps)

    def step(i: Array | int, sums: tuple[Array, ...]) -> tuple[Array, ...]:
        at = i * blocks.inputs + jnp.arange(blocks.inputs)
        tiles = [_rows(weight_ref, c * F + inside, at) for c in range(C)]
        x = _load(x_ref, at)
        if scale is not None:
            x = (x * scale * _load(extra["norm"], at)).astype(x_ref.dtype).astype(jnp.float32)
        return tuple(total + tile * x[None] for total, tile in zip(sums, tiles, strict=True))

    sums = (jnp.zeros((blocks.outputs, blocks.inputs), jnp.float32),) * C
    steps = pl.cdiv(E, blocks.inputs)
    if steps <= UNROLLED:
        for i in range(steps):
            sums = step(i, sums)
    else:
        sums = lax.fori_loop(0, steps, step, sums)
    parts = [total.sum(1).astype(dtype).astype(jnp.float32) for total in sums]
    out = parts[0] if C == 1 else jax.nn.silu(parts[0]) * parts[1]
    if "residual" in extra:
        out = out.astype(dtype).astype(jnp.float32) + pltriton.load(extra["residual"].at[inside]).astype(jnp.float32)
    # The interpreter writes old values back to masked places, so those point out of the array.
    pltriton.store(out_ref.at[output], out.astype(dtype), mask=output < F)


def _load(ref: Any, at: Array) -> Array:
    """float32 values of a one-dimensional ref, zeros past its end."""
    if ref.shape[0] % at.shape[0] == 0:
        return pltriton.load(ref.at[at]).astype(jnp.float32)
    return pltriton.load(ref.at[at], mask=at < ref.shape[0], other=0).astype(jnp.float32)


def _rows(ref: Any, row: Array, column: Array) -> Array:
    """[rows, columns] in float32 of a two-dimensional ref, zeros past its columns."""
    shape, columns = (row.shape[0], column.shape[0]), ref.shape[1]
    at = jnp.broadcast_to(row[:, None], shape), jnp.broadcast_to(column[None], shape)
    if columns % shape[1] == 0:
        return pltriton.load(ref.at[at]).astype(jnp.float32)
    return pltriton.load(ref.at[at], mask=at[1] < columns, other=0).astype(jnp.float32)
