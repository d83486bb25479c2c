"""What the engine asks of a model, and what a model says of its weights. Implemented beside it, used by step.py."""

from __future__ import annotations

from typing import Protocol

import jax
from jax import Array
from jax.sharding import Mesh

from jaxengine.cache.full import PagedRows
from jaxengine.cache.spec import Cache, CacheSpec
from jaxengine.layers.weight_spec import WeightSpec
from jaxengine.models.config import ModelConfig
from jaxengine.sharding import named_sharding


class Model(Protocol):
    """A decoder as pure functions. T tokens, S rows, E hidden, V vocabulary."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def mesh(self) -> Mesh: ...

    def weight_specs(self) -> dict[str, WeightSpec]:
        """Flat name → array, in the order of the forward pass."""

    def cache_specs(self) -> tuple[CacheSpec, ...]:
        """What each layer keeps between steps: pages of a pool, or state by slot."""

    def forward(
        self,
        weights: dict[str, Array],
        kv: tuple[Cache, ...],
        tokens: Array,
        positions: Array,
        rows: PagedRows,
        last: Array | None = None,
    ) -> tuple[Array, tuple[Cache, ...]]:
        """tokens, positions: [T] int32 → hidden [T, E] before the final norm, and the caches with this step written.

        last: [S] int32, each row's last token, where nothing of the others is wanted: hidden is [S, E] then, and the
        last layer need not compute the rest.
        """

    def logits(self, weights: dict[str, Array], hidden: Array) -> Array:
        """hidden: [S, E] → [S, V] float32 on every device."""


def abstract_weights(model: Model) -> dict[str, jax.ShapeDtypeStruct]:
    """The weights' shapes, dtypes and shardings, nothing allocated: what ahead-of-time compilation needs."""
    return {
        name: jax.ShapeDtypeStruct(spec.shape, spec.dtype, sharding=named_sharding(model.mesh, spec.axes))
        for name, spec in model.weight_specs().items()
    }
