"""LFM2: short convolutions among layers of attention, dense or with experts."""

from __future__ import annotations

from typing import Any

from jaxengine.layers.experts import Mixture
from jaxengine.layers.router import Router
from jaxengine.layers.short_conv import ConvSizes
from torch_compat.families.family import LAYER, OUTER, Config, Family, mixers
from torch_compat.families.mixtures import experts_of
from torch_compat.pieces import Depthwise
from torch_compat.recipes import Choice, HeadNorm, Recipe, Same, Stack


def lfm2_words(config: Config) -> dict[str, Any]:
    attends = config.get("full_attn_idxs")
    types = [
        "full_attention" if attends is None or i in attends else "conv" for i in range(config["num_hidden_layers"])
    ]
    return {
        "layer_types": config.get("layer_types") or types,
        "intermediate_size": lfm2_mlp_size(config),
        "tie_word_embeddings": config.get("tie_embedding", config.get("tie_word_embeddings", True)),
        "rms_norm_eps": config.get("norm_eps", 1e-5),
    }


def lfm2_mlp_size(config: Config) -> int:
    """The stated size is that of a feed-forward without gates: one of as many weights has two thirds of it."""
    size: int = config.get("block_ff_dim") or config["intermediate_size"]
    if not config.get("block_auto_adjust_ff_dim", True):
        return size
    size = int(2 * size / 3)
    if (multiplier := config.get("block_ffn_dim_multiplier", 1.0)) is None:
        return size
    multiple = config.get("block_multiple_of", 256)
    return -(-int(multiplier * size) // multiple) * multiple


def lfm2_moe_words(config: Config) -> dict[str, Any]:
    return lfm2_words(dict(config) | {"block_auto_adjust_ff_dim": False})


def lfm2_switches(config: Config) -> dict[str, Any]:
    return {
        "mixers": mixers(config["layer_types"]),
        "recurrent": ConvSizes(width=config["conv_L_cache"], bias=config["conv_bias"]),
        "qk_norm": "head",
    }


def lfm2_moe_switches(config: Config) -> dict[str, Any]:
    router = Router(
        config["num_experts"], config["num_experts_per_tok"], "sigmoid", renormalise=config["norm_topk_prob"],
        scale=config["routed_scaling_factor"], correction=config["use_expert_bias"],
    )  # fmt: skip
    layers = tuple(i >= config["num_dense_layers"] for i in range(config["num_hidden_layers"]))
    return lfm2_switches(config) | {"mixture": Mixture(router, config["moe_intermediate_size"], layers=layers)}


LFM2_MOE_DEFAULTS = {
    "num_dense_layers": 2, "norm_topk_prob": True, "use_expert_bias": True, "routed_scaling_factor": 1.0,
    "num_experts": 32, "num_experts_per_tok": 4, "moe_intermediate_size": 1792,
}  # fmt: skip
LFM2_DEFAULTS = {
    "num_key_value_heads": 8, "max_position_embeddings": 128_000, "rope_theta": 1e6, "conv_L_cache": 3,
    "conv_bias": False,
}  # fmt: skip
LFM2_LAYER: dict[str, Recipe] = LAYER | {
    "attention_norm": Same("operator_norm.weight"),
    "q_norm": HeadNorm("self_attn.q_layernorm.weight"),
    "k_norm": HeadNorm("self_attn.k_layernorm.weight"),
    "o": Same("self_attn.out_proj.weight"),
    "mix_in": Same("conv.in_proj.weight", outputs=2),
    "mix_in_bias": Same("conv.in_proj.bias", outputs=2),
    "conv": Depthwise("conv.conv.weight"),
    "conv_bias": Same("conv.conv.bias"),
    "mix_out": Same("conv.out_proj.weight"),
    "mix_out_bias": Same("conv.out_proj.bias"),
    "mlp_norm": Same("ffn_norm.weight"),
    "gate_up": Stack("feed_forward.w1.weight", "feed_forward.w3.weight"),
    "down": Same("feed_forward.w2.weight"),
}
LFM2_MOE_LAYER: dict[str, Recipe | Choice] = {
    **LFM2_LAYER,
    **experts_of("feed_forward", "w1", "w3", "w2"),
    "router_correction": Same("feed_forward.expert_bias"),
}
LFM2_OUTER: dict[str, Recipe] = OUTER | {"final_norm": Same("model.embedding_norm.weight")}

FAMILIES = {
    "Lfm2ForCausalLM": Family(
        examples=("LiquidAI/LFM2-1.2B",),
        note="gated short convolutions between attention, norms of heads",
        defaults=LFM2_DEFAULTS,
        words=lfm2_words,
        switches=lfm2_switches,
        outer=LFM2_OUTER,
        layer=LFM2_LAYER,
    ),
    "Lfm2MoeForCausalLM": Family(
        examples=("LiquidAI/LFM2-8B-A1B",),
        note="as LFM2, sigmoid router with correction, dense first layers",
        defaults=LFM2_DEFAULTS | LFM2_MOE_DEFAULTS,
        words=lfm2_moe_words,
        switches=lfm2_moe_switches,
        outer=LFM2_OUTER,
        layer=LFM2_MOE_LAYER,
    ),
}  # fmt: skip
