"""The experts' two products as Pallas kernels (Triton lowering), in tiles of up to some tokens of one expert.

Called by grouped_matmul/__init__.py. A program multiplies one tile by some of its expert's outputs; what follows the
product (biases, activation, the router's weight) happens in its registers. Programs of one tile follow each other, so
that tokens, and the weights of experts with several tiles, are read from L2 but once. Every pair of a token and an
expert has a row of its own in both results, which XLA then sums in the order of the token's experts: no atomics.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from pallas_kernels.backend import interpret
from pallas_kernels.grouped_matmul import tuning
from pallas_kernels.grouped_matmul.activation import Activation, gated
from pallas_kernels.grouped_matmul.reference import summed
from pallas_kernels.grouped_matmul.tiles import EXPERT, FIRST, LENGTH, is_expert, tiles_of
from pallas_kernels.grouped_matmul.tuning import Blocks, Sizes


def mlp(
    x: Array,  # [T, E]
    experts: Array,  # [T, k]
    weights: Array,  # [T, k]
    gate_up: Array,  # [X, 2, F, E]
    down: Array,  # [X, E, F]
    gate_up_bias: Array | None,  # [X, 2, F]
    down_bias: Array | None,  # [X, E]
    *,
    activation: Activation,
    weigh_inputs: bool,
    sizes: Sizes | None = None,
) -> Array:  # [T, E]
    """See the package. sizes: those of tuning.py unless given."""
    (T, k), (X, _, F, E) = experts.shape, gate_up.shape
    sizes = sizes or tuning.sizes(T * k, X, E, F, x.dtype.itemsize)
    chosen = experts.reshape(-1)
    # One token's experts differ: each pair is a tile, and there is nothing to sort.
    tiles = (chosen,) if T == 1 else tuple(tiles_of(chosen, X, sizes.rows, interpret=interpret()))
    share = weights.reshape(-1).astype(jnp.float32)
    given: dict[str, Any] = {"tiles": tiles, "rows": sizes.rows}
    hidden = _product(
        x, gate_up, gate_up_bias, share if weigh_inputs else None, per_row=k, activation=activation,
        blocks=sizes.gate_up, **given,
    )  # fmt: skip
    results = _product(
        hidden, down[:, None], down_bias, None if weigh_inputs else share, per_row=1, activation=None,
        blocks=sizes.down, **given,
    )  # fmt: skip
    return summed(results, is_expert(experts, X))


def _product(
    x: Array,  # [R, E]
    weight: Array,  # [X, C, F, E]; C = 2 with an activation, else 1
    bias: Array | None,  # [X, C, F] or, of C = 1, [X, F]
    share: Array | None,  # [M] float32, of each pair; multiplied before the bias with an activation, else after it
    *,
    tiles: tuple[Array, ...],  # order and table; or of each pair its expert
    rows: int,  # of a tile, at most
    per_row: int,  # pairs of a row of x: pair m reads row m // per_row
    activation: Activation | None,
    blocks: Blocks,
) -> Array:  # [M, F] in x's dtype; rows of pairs without an expert are not written
    X, C, F, E = weight.shape
    M = tiles[0].shape[0]
    more = {"share": share, "bias": None if bias is None else bias.reshape(X * C, F)}
    optional = {name: array for name, array in more.items() if array is not None}
    return pl.pallas_call(
        functools.partial(
            _multiply_tile, given=tuple(optional), is_sorted=len(tiles) == 2, X=X, C=C, rows=rows, per_row=per_row,
            activation=activation, blocks=blocks,
        ),
        grid=(pl.cdiv(F, blocks.outputs), tiles[-1].shape[0]),
        out_shape=jax.ShapeDtypeStruct((M, F), x.dtype),
        compiler_params=triton.CompilerParams(num_warps=blocks.warps, num_stages=blocks.stages),
        interpret=interpret(),
        name="grouped_matmul_down" if activation is None else "grouped_matmul_gate_up",
    )(x, weight.reshape(X * C * F, E), *tiles, *optional.values())  # fmt: skip


def _multiply_tile(  # type: ignore[no-untyped-def]
    x_ref, weight_ref, *refs, given: tuple[str, ...], is_sorted: bool, X: int, C: int, rows: int, per_row: int,
    activation: Activation | None, blocks: Blocks,
):  # fmt: skip
    """Program (f, tile): the tile's outputs from f · blocks.outputs on."""
    *tile_refs, out_ref = refs
    tile_refs, extra = tile_refs[: 1 + is_sorted], dict(zip(given, tile_refs[1 + is_sorted :], strict=True))
    (M, F), E = out_ref.shape, x_ref.shape[1]
    start, tile = pl.program_id(0) * blocks.outputs, pl.program_id(1)
    if is_sorted:
        order_ref, table_ref = tile_refs
        expert, first, length = (table_ref[tile, column] for column in (EXPERT, FIRST, LENGTH))
    else:
        expert, first = tile_refs[0][tile], tile
        length = is_expert(expert, X).astype(jnp.int32)

    @pl.when(length > 0)
    def live() -> None:
        lane = jnp.arange(max(16, rows))  # a matrix unit wants 16 rows
        place = first + jnp.minimum(lane, length - 1)  # past the end: the last one again
        pair = triton.load(order_ref.at[place]) if is_sorted else place
        output = start + jnp.arange(blocks.outputs)
        inside = jnp.minimum(output, F - 1)
        token = pair // per_row
        precision = lax.Precision.HIGHEST if x_ref.dtype == jnp.float32 else None

        def step(i: Array | int, sums: tuple[Array, ...]) -> tuple[Array, ...]:
            at = i * blocks.inputs + jnp.arange(blocks.inputs)
            tokens = _block(x_ref, token, at)
            parts = [_block(weight_ref, (expert * C + c) * F + inside, at) for c in range(C)]
            products = [triton.dot(tokens, part.T, precision=precision) for part in parts]
            return tuple(total + product for total, product in zip(sums, products, strict=True))

        zeros = (jnp.zeros((lane.shape[0], blocks.outputs), jnp.float32),) * C
        sums = lax.fori_loop(0, pl.cdiv(E, blocks.inputs), step, zeros)
        share = triton.load(extra["share"].at[pair])[:, None] if "share" in extra else None
        if share is not None and activation is not None:
            sums = tuple(total * share for total in sums)
        if "bias" in extra:
            of = [jnp.broadcast_to(expert * C + c, inside.shape) for c in range(C)]
            biases = [triton.load(extra["bias"].at[of[c], inside]).astype(jnp.float32) for c in range(C)]
            sums = tuple(total + bias[None] for total, bias in zip(sums, biases, strict=True))
        out = sums[0] if activation is None else gated(sums[0], sums[1], activation)
        out = out * share if share is not None and activation is None else out
        # The interpreter writes old values back to masked places, so those point out of the array.
        row = jnp.broadcast_to(jnp.where(lane < length, pair, M)[:, None], out.shape)
        column = jnp.broadcast_to(output[None], out.shape)
        mask = (row < M) & (column < F)
        triton.store(out_ref.at[row, column], out.astype(out_ref.dtype), mask=mask)


def _block(ref: Any, row: Array, column: Array) -> Array:
    """[rows, columns] of a two-dimensional ref, zeros past its columns."""
    shape, columns = (row.shape[0], column.shape[0]), ref.shape[1]
    at = jnp.broadcast_to(row[:, None], shape), jnp.broadcast_to(column[None], shape)
    if columns % shape[1] == 0:
        return triton.load(ref.at[at])
    return triton.load(ref.at[at], mask=at[1] < columns, other=0)
