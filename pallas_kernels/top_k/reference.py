"""The specification of `thresholds` in plain jnp, and the CPU implementation: a search, no sort (see bracket.py).

Every pass is a plain reduction over [S, V]; passes end when all rows are settled.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array, lax

from pallas_kernels.top_k.bracket import LOWEST, Bracket, image, search

LANES = 128  # [S, V] is reduced as [S, V / LANES, LANES], over the middle axis first: that is what CPUs vectorise


def thresholds(logits: Array, temperature: Array, top_k: Array, top_p: Array, min_p: Array) -> Array:
    """[S, V] float32 and [S] settings → [S] float32: the smallest value kept, -inf where everything is off."""
    on = (top_k > 0) | (top_p < 1.0) | (min_p > 0.0)
    off = lambda logits, *_: jnp.full(logits.shape[:1], -jnp.inf)  # noqa: E731
    return lax.cond(on.any(), _thresholds, off, logits, temperature, top_k, top_p, min_p)


def _thresholds(logits: Array, temperature: Array, top_k: Array, top_p: Array, min_p: Array) -> Array:
    S, V = logits.shape
    x = jnp.pad(logits, ((0, 0), (0, -V % LANES)), constant_values=-jnp.inf).reshape(S, -1, LANES)
    most = x.max(axis=1).max(axis=-1)
    high, none = image(most) + 1, jnp.zeros((S,), jnp.int32)

    def count(cut: Array) -> Array:
        return (x >= cut[:, None, None]).sum(axis=1, dtype=jnp.int32).sum(axis=-1)

    def counted(cuts: Sequence[Array]) -> list[tuple[Array, Array]]:
        return [(n >= top_k, n) for n in map(count, cuts)]

    floor = jnp.where(min_p > 0, most + jnp.log(min_p) * temperature, -jnp.inf)
    start = Bracket(jnp.full((S,), LOWEST), high, jnp.full((S,), V), none)
    floor = jnp.maximum(floor, search(counted, start, (top_k > 0) & (top_k < V), top_k))

    def nucleus() -> Array:
        peak = jnp.where(jnp.isfinite(most), most, 0.0)
        weight = jnp.exp((x - peak[:, None, None]) * (1.0 / temperature)[:, None, None])

        def mass(cut: Array) -> Array:
            return jnp.where(x >= cut[:, None, None], weight, 0.0).sum(axis=1).sum(axis=-1)

        wanted = top_p * mass(floor)

        def weighed(cuts: Sequence[Array]) -> list[tuple[Array, Array]]:
            return [(mass(cut) >= wanted, count(cut)) for cut in cuts]

        start = Bracket(image(floor), high, count(floor), none)
        return jnp.maximum(floor, search(weighed, start, by_mass, 0))

    by_mass = (top_p < 1.0) & (most > -jnp.inf)
    return lax.cond(by_mass.any(), nucleus, lambda: floor)
