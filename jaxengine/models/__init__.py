"""The models, and the one place that knows which architecture names they serve. build.py calls `build_model`."""

from __future__ import annotations

import jax.numpy as jnp
from jax.sharding import Mesh

from jaxengine.models.config import ModelConfig
from jaxengine.models.decoder import Decoder
from jaxengine.models.protocol import Model, WeightSpec, abstract_weights

__all__ = [
    "ARCHITECTURES",
    "Model",
    "ModelConfig",
    "UnsupportedModel",
    "WeightSpec",
    "abstract_weights",
    "build_model",
    "check_supported",
]

ARCHITECTURES = {
    "LlamaForCausalLM": Decoder,
    "MistralForCausalLM": Decoder,
    "Qwen2ForCausalLM": Decoder,
    "Qwen3ForCausalLM": Decoder,
}


class UnsupportedModel(ValueError):
    """A model, or a switch of one, that is not served. The message names it and says what is."""


def check_supported(architecture: str) -> None:
    """Raise UnsupportedModel unless some model here serves this architecture."""
    if architecture not in ARCHITECTURES:
        raise UnsupportedModel(
            f"architecture {architecture!r} is not supported; supported are {', '.join(sorted(ARCHITECTURES))}."
        )


def build_model(config: ModelConfig, mesh: Mesh, *, page_size: int = 16, cache_dtype: jnp.dtype | None = None) -> Model:
    """The model that serves this config on this mesh. cache_dtype: of keys and values in pages (default: the config's).

    Raises UnsupportedModel for an unknown architecture, ShardingError where the mesh does not divide the model.
    """
    check_supported(config.architecture)
    return ARCHITECTURES[config.architecture](config, mesh, page_size, cache_dtype or config.dtype)
