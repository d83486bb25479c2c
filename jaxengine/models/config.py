"""What a decoder looks like, in our own words. Made by torch_compat/hf_config.py, read by the models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp

from jaxengine.layers.experts import Mixture
from jaxengine.layers.gated_delta import DeltaSizes
from jaxengine.layers.heads import QkNorm, QueryGrowth
from jaxengine.layers.latent_attention import LatentSizes
from jaxengine.layers.mamba2 import MambaSizes
from jaxengine.layers.norm import NormKind
from jaxengine.layers.rope import Rope
from jaxengine.layers.short_conv import ConvSizes

# Where the norms of a layer stand: before each block; behind each, on what it adds; both; before both blocks, which
# read the same input ("parallel"; "shared": through the same norm); or behind each residual ("after").
NormPlaces = Literal["pre", "post", "both", "parallel", "shared", "after"]

# How the tokens of a row see one another in a layer; "": they do not.
MixerKind = Literal["attention", "recurrent", ""]


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
    # the stream
    embed_size: int | None = None  # of a token's embedding, where two products lead to hidden_size and back
    embed_scale: float = 1.0
    embed_norm: bool = False
    position_table: int = 0  # rows of learned position embeddings, 0: none
    position_offset: int = 0  # row of the first position
    residual_scale: float = 1.0  # of what a block adds
    final_norm: bool = True
    tie_embeddings: bool = False
    head_bias: bool = False
    logits_scale: float = 1.0
    logits_softcap: float | None = None
    # norms
    norm: NormKind = "rms"
    norm_eps: float = 1e-6
    norm_weight: bool = True
    norm_bias: bool = False
    norm_float32: bool = False  # their weights are kept in float32, because they are read as 1 + w
    norm_places: NormPlaces = "pre"
    # layers that differ
    mixers: tuple[MixerKind, ...] = ()  # per layer; empty: attention in every layer
    feed_forwards: tuple[bool, ...] = ()  # per layer: whether it has one; empty: all
    recurrent: DeltaSizes | MambaSizes | ConvSizes | None = None  # the recurrence of those layers that have one
    # attention
    latent: LatentSizes | None = None  # where heads share one latent a token; None: they have keys and values
    layer_ropes: tuple[Rope, ...] = ()  # where layers differ; empty: `rope` in every layer
    windows: tuple[
        int | None, ...
    ] = ()  # per layer: keys that a token sees, itself included; empty: all, in every layer
    chunks: tuple[int | None, ...] = ()  # per layer: positions of the chunks that tokens do not see beyond; None: all
    attention_scale: float | None = None  # of scores; None: head_dim ** -0.5
    attention_softcap: float | None = None
    qkv_bias: bool = False
    o_bias: bool = False
    qk_norm: QkNorm = ""
    qkv_clip: float | None = None
    query_growth: QueryGrowth | None = None
    sinks: bool = False
    attention_gate: bool = False  # what a head found is scaled by the sigmoid of a product with the layer's input
    # feed-forward
    activation: str = "silu"
    gated: bool = True
    mlp_bias: bool = False
    mixture: Mixture | None = None  # of experts, in those layers that have one; the others are dense

    def window(self, layer: int) -> int | None:
        """Keys that a token of this layer sees, itself included; None: all."""
        window = self.windows[layer] if self.windows else None
        return None if window is None or window >= self.max_length else window

    def mixer(self, layer: int) -> MixerKind:
        """How tokens see one another in this layer."""
        return self.mixers[layer] if self.mixers else "attention"

    def layer_rope(self, layer: int) -> Rope:
        """How this layer turns positions into angles."""
        return self.layer_ropes[layer] if self.layer_ropes else self.rope

    @property
    def depends_on_length(self) -> bool:
        """Whether keys depend on the length that their row had when they were computed."""
        return any(rope.depends_on_length for rope in (self.rope, *self.layer_ropes))

    @property
    def max_length(self) -> int:
        """Longest context, in tokens, that the position embedding is meant for."""
        if self.rope.kind in ("linear", "dynamic"):
            return int(self.max_position_embeddings * self.rope.factor)
        if self.rope.kind == "yarn":
            return max(int(self.rope.original_length * self.rope.factor), self.max_position_embeddings)
        return self.max_position_embeddings
