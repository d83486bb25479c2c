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
    if cut := next((chunk for chunk in config.chunks if chunk and chunk % page_size), None):
        raise UnsupportedModel(
            f"block_size={page_size} does not divide this model's attention chunks of {cut} tokens; give one that does."
        )
    return Decoder(config, mesh, page_size, cache_dtype or config.dtype)
