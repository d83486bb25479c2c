"""The models. build.py calls `build_model`."""

from __future__ import annotations

import jax.numpy as jnp
from jax.sharding import Mesh

from jaxengine.layers.weight_spec import WeightSpec
from jaxengine.models.config import ModelConfig
from jaxengine.models.decoder import Decoder
from jaxengine.models.protocol import Model, abstract_weights

__all__ = [
    "Model",
    "ModelConfig",
    "UnsupportedModel",
    "WeightSpec",
    "abstract_weights",
    "build_model",
]


class UnsupportedModel(ValueError):
    """A model, or a switch of one, that is not served. The message names it and says what is."""


def build_model(config: ModelConfig, mesh: Mesh, *, page_size: int = 16, cache_dtype: jnp.dtype | None = None) -> Model:
    """The model that serves this config on this mesh. cache_dtype: of keys and values in pages (default: the config's).

    Raises ShardingError where the mesh does not divide the model.
    """
    return Decoder(config, mesh, page_size, cache_dtype or config.dtype)
