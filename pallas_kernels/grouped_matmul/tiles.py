"""Which tokens go through which expert, as tiles: up to so many tokens of one expert. Used by reference.py, kernel.py.

A pair is a (token, one of its k experts), number token · k + j. The list of tiles has a static length that holds any
choice of experts. Many pairs are sorted by XLA; for the few of a decode step one kernel counts instead, tiles_cuda.py's
or a Pallas one, which takes the place of half a dozen that would each cost as much as they compute.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from pallas_kernels.backend import Backend, resolve
from pallas_kernels.grouped_matmul import tiles_cuda
from pallas_kernels.grouped_matmul.tuning import COUNTED, PLAN_PLACES

EXPERT, FIRST, LENGTH = range(3)  # columns of a tile


class Tiles(NamedTuple):
    """M pairs in W tiles."""

    order: Array  # [M] int32 pairs, sorted by expert; those of no expert last
    table: Array  # [W, 3] int32: expert, first place in `order`, length; 0: not a tile


def is_expert(chosen: Array, experts: int) -> Array:
    """Whether a pair has an expert at all."""
    return (chosen >= 0) & (chosen < experts)


def most_tiles(pairs: int, experts: int, rows: int) -> int:
    """W: the length of a list that holds any choice."""
    return min(pairs, (pairs + experts * (rows - 1)) // rows)


def tiles_by_sorting(chosen: Array, experts: int, rows: int) -> Tiles:
    """chosen: [M] int32 expert of each pair, outside [0, experts) for none."""
    M = chosen.shape[0]
    chosen = jnp.where(is_expert(chosen, experts), chosen, experts)
    pair = jnp.arange(M, dtype=jnp.int32)
    order = jnp.sort(chosen * M + pair) % M  # one unique key a pair: nothing else to move
    starts = (chosen[None] < jnp.arange(experts + 1, dtype=jnp.int32)[:, None]).sum(1, dtype=jnp.int32)
    counts = jnp.diff(starts)
    tiles = -(-counts // rows)
    ends = jnp.cumsum(tiles, dtype=jnp.int32)
    place = jnp.arange(most_tiles(M, experts, rows), dtype=jnp.int32)
    owner = (ends <= place[:, None]).sum(1, dtype=jnp.int32)
    expert = jnp.minimum(owner, experts - 1)
    done = (place - (ends - tiles)[expert]) * rows  # pairs of the expert before the tile
    length = jnp.where(owner < experts, jnp.clip(counts[expert] - done, 0, rows), 0)
    return Tiles(order, jnp.stack([expert, starts[expert] + done, length], axis=1))


def tiles_by_counting(chosen: Array, experts: int, rows: int, *, interpret: bool) -> Tiles:
    """The same from one kernel, whose work grows with M²."""
    M = chosen.shape[0]
    W = most_tiles(M, experts, rows)
    order, table = pl.pallas_call(
        functools.partial(_count, experts=experts, rows=rows, sorting=pl.cdiv(M, PLAN_PLACES)),
        out_shape=(jax.ShapeDtypeStruct((M,), jnp.int32), jax.ShapeDtypeStruct((W, 3), jnp.int32)),
        grid=(pl.cdiv(M, PLAN_PLACES) + pl.cdiv(W, PLAN_PLACES),),
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=1),
        interpret=interpret,
        name="grouped_matmul_tiles",
    )(chosen)
    return Tiles(order, table)


def tiles_of(chosen: Array, experts: int, rows: int, *, interpret: bool) -> Tiles:
    """By the way that suits the number of pairs. Few are counted in CUDA where it runs and no setting of the op
    (`use_backend`) asks for "pallas": a call's own `backend` is about its products."""
    M = chosen.shape[0]
    if M > COUNTED:
        return tiles_by_sorting(chosen, experts, rows)
    compiled: tuple[Backend, ...] = ("cuda",) if not interpret and tiles_cuda.supports(M, experts) else ()
    if resolve(None, (*compiled, "pallas"), "grouped_matmul") == "cuda":
        return Tiles(*tiles_cuda.tiles(chosen, experts, rows, most_tiles(M, experts, rows)))
    return tiles_by_counting(chosen, experts, rows, interpret=interpret)


def _count(chosen_ref, order_ref, table_ref, *, experts: int, rows: int, sorting: int) -> None:  # type: ignore[no-untyped-def]
    """The first `sorting` programs place pairs, the others make tiles: each counts for itself all it needs."""
    M, W = chosen_ref.shape[0], table_ref.shape[0]
    program, lane = pl.program_id(0), jnp.arange(PLAN_PLACES)

    def load(place: Array) -> Array:
        found = triton.load(chosen_ref.at[place], mask=place < M, other=0)
        return jnp.where(place < M, jnp.where(is_expert(found, experts), found, experts), experts + 1)

    def sum_over_pairs(count: Array, step) -> Array:  # type: ignore[no-untyped-def]
        def body(i: Array, total: Array) -> Array:
            place = i * PLAN_PLACES + lane
            return total + step(load(place), place)

        return jax.lax.fori_loop(0, pl.cdiv(M, PLAN_PLACES), body, count)

    @pl.when(program < sorting)
    def place_pairs() -> None:
        pair = program * PLAN_PLACES + lane
        mine = load(pair)

        def before(theirs: Array, place: Array) -> Array:
            earlier = (theirs[None] == mine[:, None]) & (place[None] < pair[:, None])
            return ((theirs[None] < mine[:, None]) | earlier).astype(jnp.int32).sum(1)

        rank = sum_over_pairs(jnp.zeros((PLAN_PLACES,), jnp.int32), before)
        # The interpreter writes old values back to masked places, so those point out of the array.
        triton.store(order_ref.at[jnp.where(pair < M, rank, M)], pair, mask=pair < M)

    @pl.when(program >= sorting)
    def make_tiles() -> None:
        expert = jnp.arange(pl.next_power_of_2(experts))
        zeros = jnp.zeros(expert.shape, jnp.int32)
        live = expert < experts

        def of_expert(theirs: Array, _: Array) -> Array:
            return (theirs[None] == expert[:, None]).astype(jnp.int32).sum(1)

        counts = jnp.where(live, sum_over_pairs(zeros, of_expert), 0)
        tiles = (counts + rows - 1) // rows
        starts, ends = jnp.cumsum(counts) - counts, jnp.cumsum(tiles)
        place = (program - sorting) * PLAN_PLACES + lane
        owns = ((ends - tiles)[None] <= place[:, None]) & (place[:, None] < ends[None])  # [places, experts]

        def of_owner(value: Array) -> Array:
            return jnp.where(owns, jnp.broadcast_to(value[None], owns.shape), 0).sum(1)

        done = (place - of_owner(ends - tiles)) * rows
        length = jnp.clip(of_owner(counts) - done, 0, rows)
        at = jnp.where(place < W, place, W)
        for column, value in ((EXPERT, of_owner(expert)), (FIRST, of_owner(starts) + done), (LENGTH, length)):
            triton.store(table_ref.at[at, jnp.full(at.shape, column)], value, mask=place < W)
