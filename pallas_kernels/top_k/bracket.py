"""The search that the reference and the kernel share: float32 as ordered integers, and a bracket narrowed pass by pass.

float32 values map to int32 in the same order, so a threshold is found in an integer bracket cut into four parts a pass,
until one value at most is left inside: at most 17 passes, usually 4 to 6. Everything here is elementwise: the reference
searches all rows at once ([S] arrays), a program of the kernel its own (scalars).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

# Distances below the top of the bracket at which the first pass looks: most thresholds lie within a few nats of it.
PROBES = (16.0, 6.0, 2.0)
LOWEST = -0x7F800001  # image(-inf)

# [cuts] → for each whether {x >= cut} is enough, and how many values it holds
Enough = Callable[[Sequence[Array]], Sequence[tuple[Array, Array]]]


class Bracket(NamedTuple):
    """Where a threshold lies: {x >= low} is enough, {x >= high} is not. Images of floats; int32."""

    low: Array
    high: Array
    low_count: Array  # how many values are >= low
    high_count: Array

    @property
    def width(self) -> Array:
        return self.high.astype(jnp.uint32) - self.low.astype(jnp.uint32)  # no overflow


def search(enough: Enough, start: Bracket, active: Array, exact: Array | int) -> Array:
    """The largest threshold that is enough, or one that holds the same values; -inf where not active.

    exact: a count at which the search can stop.
    """

    def unsettled(carry: tuple[Bracket, Array]) -> Array:
        b, _ = carry
        settled = (b.width <= 1) | (b.low_count - b.high_count <= 1) | (b.low_count == exact)
        pending = active & ~settled
        return pending.any() if pending.ndim else pending

    def narrow(carry: tuple[Bracket, Array]) -> tuple[Bracket, Array]:
        b, passes = carry
        step = jnp.maximum(b.width >> 2, 1).astype(jnp.int32)
        cuts = []
        for j, probe in enumerate(PROBES):
            at = jnp.where(passes == 0, image(value(b.high) - probe), b.low + (j + 1) * step)
            cuts.append(jnp.minimum(jnp.maximum(at, b.low), b.high))
        low, high, low_count, high_count = b
        for at, (ok, kept) in zip(cuts, enough([value(at) for at in cuts]), strict=True):
            up, down = ok & (at > low), ~ok & (at < high)
            low, low_count = jnp.where(up, at, low), jnp.where(up, kept, low_count)
            high, high_count = jnp.where(down, at, high), jnp.where(down, kept, high_count)
        return Bracket(low, high, low_count, high_count), passes + 1

    found, _ = lax.while_loop(unsettled, narrow, (start, jnp.int32(0)))
    return jnp.where(active, value(found.low), -jnp.inf)


def image(x: Array) -> Array:
    """float32 → int32, order-preserving."""
    bits = lax.bitcast_convert_type(x.astype(jnp.float32), jnp.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def value(image: Array) -> Array:
    """The float32 of an image."""
    return lax.bitcast_convert_type(image ^ ((image >> 31) & 0x7FFFFFFF), jnp.float32)
