"""What a layer is put together from: a mixer (how a row's tokens see one another) and a feed-forward.

Blocks are small frozen dataclasses that know their weights, their cache and their forward. models/decoder.py makes them
from a ModelConfig; models/layer.py joins them with norms and residuals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import jax
from jax import Array

from jaxengine.cache.full import PagedRows
from jaxengine.cache.spec import Cache, CacheSpec
from jaxengine.layers.norm import FusedNorm
from jaxengine.layers.rope import Rope
from jaxengine.layers.weight_spec import WeightSpec


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StepInputs:
    """What mixers read of a step beside activations and weights. T tokens, S rows."""

    angles: tuple[Array, Array] | None  # cosines and sines of the mixer's rope, each [T, D/2] float32
    positions: Array  # [T] int32
    rows: PagedRows
    last: Array | None  # [S] int32, each row's last token, where the output of the others is not wanted


class Mixer(Protocol):
    """How the tokens of a row see one another: attention over heads or latents, a recurrence, a convolution."""

    @property
    def rope(self) -> Rope | None:
        """Whose angles StepInputs holds for it."""

    def weight_specs(self) -> dict[str, WeightSpec]:
        """Short name → array, in the order of use."""

    def cache_spec(self) -> CacheSpec:
        """What it keeps between steps."""

    def __call__(
        self,
        weights: dict[str, Array],
        x: Array,
        norm: FusedNorm | None,
        step: StepInputs,
        cache: Cache,
        residual: Array | None,
    ) -> tuple[Array, Cache]:
        """x: [T, E], to which `norm` is still to be applied → what is added to the residual stream, or with `residual`
        their sum, [T, E] or [S, E] of the last tokens alone; and the cache with this step's tokens in it."""


class FeedForward(Protocol):
    """What each token does by itself."""

    def weight_specs(self) -> dict[str, WeightSpec]:
        """Short name → array, in the order of use."""

    def __call__(self, weights: dict[str, Array], x: Array, norm: FusedNorm | None, residual: Array | None) -> Array:
        """x: [T, E], to which `norm` is still to be applied → [T, E], with `residual` added where it is given."""
