"""What a decoder looks like, in our own words. Made by torch_compat/hf_config.py, read by the models."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp

from jaxengine.layers.rope import Rope


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and switches of a decoder. Sizes are those of the checkpoint, before any padding or sharding."""

    architecture: str  # the class name in config.json, such as "LlamaForCausalLM"
    vocab_size: int
    hidden_size: int
    mlp_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope: Rope
    max_position_embeddings: int
    dtype: jnp.dtype  # of weights and activations
    norm_eps: float = 1e-6
    activation: str = "silu"
    windows: tuple[
        int | None, ...
    ] = ()  # per layer: keys that a token sees, itself included; empty: all, in every layer
    tie_embeddings: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False

    def window(self, layer: int) -> int | None:
        """Keys that a token of this layer sees, itself included; None: all."""
        return self.windows[layer] if self.windows else None

    @property
    def max_length(self) -> int:
        """Longest context, in tokens, that the position embedding is meant for."""
        if self.rope.kind in ("linear", "dynamic"):
            return int(self.max_position_embeddings * self.rope.factor)
        if self.rope.kind == "yarn":
            return max(int(self.rope.original_length * self.rope.factor), self.max_position_embeddings)
        return self.max_position_embeddings
