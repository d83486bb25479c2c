"""The search of bracket.py as one Pallas kernel (Triton lowering): one program a row, reading the row once as a rule.

Lane i of a program sees values i, i + BLOCK, … and keeps the DEPTH largest of them, so that every value above the
largest one that any lane may have dropped (`edge`) is in registers, where searching costs next to nothing. Only a
threshold below the edge, in a flat distribution, needs passes over the row. Rows with everything off cost nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pltriton

from pallas_kernels import backend
from pallas_kernels.top_k.bracket import LOWEST, Bracket, image, search, value
from pallas_kernels.top_k.tuning import BLOCK, DEPTH, NUM_WARPS

Sums = tuple[list[Array], list[Array]]  # for each cut how many values reach it, and their unnormalised probability


def thresholds(logits: Array, temperature: Array, top_k: Array, top_p: Array, min_p: Array) -> Array:
    """[S, V] float32 and [S] settings → [S] float32; see the package."""
    S, V = logits.shape
    row = pl.BlockSpec((S,), lambda s: (0,))
    return pl.pallas_call(
        functools.partial(_kernel, V=V, block=min(BLOCK, pl.next_power_of_2(V))),
        grid=(S,),
        in_specs=[pl.BlockSpec((None, V), lambda s: (s, 0)), row, row, row, row, row],
        out_specs=row,
        out_shape=jax.ShapeDtypeStruct((S,), jnp.float32),
        compiler_params=pltriton.CompilerParams(num_warps=NUM_WARPS, num_stages=2),
        interpret=backend.interpret(),
        name="top_k_thresholds",
    )(logits, 1.0 / temperature, top_k, top_p, min_p, temperature * jnp.log(min_p))


def _kernel(x_ref, scale_ref, k_ref, p_ref, min_p_ref, gap_ref, out_ref, *, V: int, block: int):  # type: ignore[no-untyped-def]
    s = pl.program_id(0)
    scale, top_k, top_p, min_p = scale_ref[s], k_ref[s], p_ref[s], min_p_ref[s]
    by_count = (top_k > 0) & (top_k < V)
    nothing = jnp.minimum(top_p, -jnp.inf)  # -inf, but not a literal: jax 0.11 cannot store one

    def fold(visit: Callable[..., Sequence[Array]], zeros: Sequence[Array]) -> Sequence[Array]:
        """Accumulate `visit(values, *accumulators)` over the row, block by block."""

        def body(i: Array, carry: Sequence[Array]) -> Sequence[Array]:
            at = i * block + jnp.arange(block)
            return visit(pltriton.load(x_ref.at[pl.ds(i * block, block)], mask=at < V, other=-jnp.inf), *carry)

        return lax.fori_loop(0, pl.cdiv(V, block), body, tuple(zeros))

    def insert(x: Array, *kept: Array) -> tuple[Array, ...]:
        """Each lane's DEPTH largest values, in falling order."""
        out = []
        for k in kept:
            out.append(jnp.maximum(k, x))
            x = jnp.minimum(k, x)
        return tuple(out)

    def cut() -> Array:
        kept = fold(insert, [jnp.full((block,), -jnp.inf)] * DEPTH)
        most = jnp.max(kept[0])
        edge = image(jnp.max(kept[-1])) + 1  # of the values from here on none was dropped
        peak = jnp.where(jnp.abs(most) < jnp.inf, most, 0.0)

        def add(cuts: Sequence[Array], weigh: bool) -> Callable[..., tuple[Array, ...]]:
            m = len(cuts)

            def visit(x: Array, *sums: Array) -> tuple[Array, ...]:
                counts = tuple(n + (x >= cut) for n, cut in zip(sums[:m], cuts, strict=True))
                if not weigh:
                    return counts
                weight = jnp.exp((x - peak) * scale)
                masses = tuple(a + jnp.where(x >= cut, weight, 0.0) for a, cut in zip(sums[m:], cuts, strict=True))
                return counts + masses

            return visit

        def total(cuts: Sequence[Array], weigh: bool, streamed: bool) -> Sums:
            m = len(cuts)
            sums: Sequence[Array] = [jnp.zeros((block,), jnp.int32)] * m
            sums = [*sums, *[jnp.zeros((block,), jnp.float32)] * m] if weigh else sums
            if streamed:
                sums = fold(add(cuts, weigh), sums)
            else:
                for x in kept:
                    sums = add(cuts, weigh)(x, *sums)
            return [jnp.sum(n) for n in sums[:m]], [jnp.sum(a) for a in sums[m:]]

        def settle(low: Array, low_count: Array, exact: Array | int, weigh: bool, wanted: Array) -> Array:
            """The threshold from `low` on that holds `wanted` values (or mass), searched where it is."""

            def enough(streamed: bool, cuts: Sequence[Array]) -> list[tuple[Array, Array]]:
                counts, masses = total(cuts, weigh, streamed)
                return [(a >= wanted, n) for a, n in zip(masses if weigh else counts, counts, strict=True)]

            def hunt(streamed: bool, start: Bracket) -> Array:
                return search(functools.partial(enough, streamed), start, top_p <= 1.0, exact)

            border = jnp.maximum(edge, low)
            ((above, count),) = enough(False, [value(border)])
            top = image(most) + 1
            in_registers = functools.partial(hunt, False, Bracket(border, top, count, jnp.int32(0)))
            in_the_row = functools.partial(hunt, True, Bracket(low, border, low_count, count))
            return lax.cond(above, in_registers, in_the_row)

        floor = jnp.where(min_p > 0, most + gap_ref[s], -jnp.inf)
        counted = lambda: settle(jnp.int32(LOWEST), jnp.int32(V), top_k, False, top_k)  # noqa: E731
        floor = jnp.maximum(floor, lax.cond(by_count, counted, lambda: nothing))

        def nucleus() -> Array:
            in_hand = lambda: [sums[0] for sums in total([floor], True, False)]  # noqa: E731
            streamed = lambda: [sums[0] for sums in total([floor], True, True)]  # noqa: E731
            inside, mass = lax.cond(image(floor) >= edge, in_hand, streamed)
            return jnp.maximum(floor, settle(image(floor), inside, 0, True, top_p * mass))

        return lax.cond((top_p < 1.0) & (most > -jnp.inf), nucleus, lambda: floor)

    out_ref[s] = lax.cond(by_count | (top_p < 1.0) | (min_p > 0.0), cut, lambda: nothing)
