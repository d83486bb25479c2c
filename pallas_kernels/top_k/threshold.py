"""The search of bracket.py as one Pallas kernel (Triton lowering): one program a row, its bracket in registers.

A row with everything off costs nothing. Otherwise the row is read once for its maximum and once a pass, from L2 after
the first time; passes end as soon as the row's own bracket is settled, without asking the host.
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
from pallas_kernels.top_k.bracket import LOWEST, Bracket, image, search
from pallas_kernels.top_k.tuning import BLOCK, NUM_WARPS


def thresholds(logits: Array, top_k: Array, top_p: Array, min_p: Array) -> Array:
    """[S, V] float32 and [S] settings → [S] float32; see the package."""
    S, V = logits.shape
    everything = pl.BlockSpec((S,), lambda s: (0,))
    return pl.pallas_call(
        functools.partial(_kernel, V=V, block=min(BLOCK, pl.next_power_of_2(V))),
        grid=(S,),
        in_specs=[pl.BlockSpec((None, V), lambda s: (s, 0)), everything, everything, everything],
        out_specs=everything,
        out_shape=jax.ShapeDtypeStruct((S,), jnp.float32),
        compiler_params=pltriton.CompilerParams(num_warps=NUM_WARPS, num_stages=2),
        interpret=backend.interpret(),
        name="top_k_thresholds",
    )(logits, top_k, top_p, min_p)


def _kernel(x_ref, k_ref, p_ref, min_p_ref, out_ref, *, V: int, block: int):  # type: ignore[no-untyped-def]
    s = pl.program_id(0)
    top_k, top_p, min_p = k_ref[s], p_ref[s], min_p_ref[s]
    by_count = (top_k > 0) & (top_k < V)
    nothing = jnp.minimum(top_p, -jnp.inf)  # -inf, but not a literal: jax 0.11 cannot store one

    def fold(visit: Callable[..., Sequence[Array]], zeros: Sequence[Array]) -> Sequence[Array]:
        """Accumulate `visit(values, *accumulators)` over the row, block by block."""

        def body(i: Array, carry: Sequence[Array]) -> Sequence[Array]:
            at = i * block + jnp.arange(block)
            return visit(pltriton.load(x_ref.at[pl.ds(i * block, block)], mask=at < V, other=-jnp.inf), *carry)

        return lax.fori_loop(0, pl.cdiv(V, block), body, tuple(zeros))

    def cut() -> Array:
        (highest,) = fold(lambda x, m: (jnp.maximum(m, x),), [jnp.full((block,), -jnp.inf)])
        most = jnp.max(highest)
        peak = jnp.where(jnp.abs(most) < jnp.inf, most, 0.0)
        high, none = image(most) + 1, jnp.int32(0)

        def counts(cuts: Sequence[Array]) -> list[Array]:
            """How many values reach each cut."""
            zeros = [jnp.zeros((block,), jnp.int32)] * len(cuts)
            sums = fold(lambda x, *n: tuple(c + (x >= cut) for c, cut in zip(n, cuts, strict=True)), zeros)
            return [jnp.sum(n) for n in sums]

        def counts_and_masses(cuts: Sequence[Array]) -> tuple[list[Array], list[Array]]:
            """The same, and the unnormalised probability of those values."""
            m = len(cuts)

            def visit(x: Array, *sums: Array) -> tuple[Array, ...]:
                weight = jnp.exp(x - peak)
                counts = tuple(n + (x >= cut) for n, cut in zip(sums[:m], cuts, strict=True))
                return counts + tuple(
                    a + jnp.where(x >= cut, weight, 0.0) for a, cut in zip(sums[m:], cuts, strict=True)
                )

            sums = fold(visit, [jnp.zeros((block,), jnp.int32)] * m + [jnp.zeros((block,), jnp.float32)] * m)
            return [jnp.sum(n) for n in sums[:m]], [jnp.sum(a) for a in sums[m:]]

        def counted(cuts: Sequence[Array]) -> list[tuple[Array, Array]]:
            return [(n >= top_k, n) for n in counts(cuts)]

        start = Bracket(jnp.int32(LOWEST), high, jnp.int32(V), none)
        floor = jnp.where(min_p > 0, most + jnp.log(min_p), -jnp.inf)
        floor = jnp.maximum(floor, search(counted, start, by_count, top_k, most))

        def nucleus() -> Array:
            (inside,), (total,) = counts_and_masses([floor])

            def weighed(cuts: Sequence[Array]) -> list[tuple[Array, Array]]:
                return [(a >= top_p * total, n) for n, a in zip(*counts_and_masses(cuts), strict=True)]

            start = Bracket(image(floor), high, inside, none)
            return jnp.maximum(floor, search(weighed, start, top_p < 1.0, 0, most))

        return lax.cond((top_p < 1.0) & (most > -jnp.inf), nucleus, lambda: floor)

    out_ref[s] = lax.cond(by_count | (top_p < 1.0) | (min_p > 0.0), cut, lambda: nothing)
