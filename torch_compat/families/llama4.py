"""The language models of Llama 4: chunks of attention, layers without rotation, experts that weigh their input."""

from __future__ import annotations

from typing import Any

from jaxengine.layers.experts import Mixture
from jaxengine.layers.heads import QueryGrowth
from jaxengine.layers.rope import Rope
from jaxengine.layers.router import Router
from torch_compat.expert_recipes import FusedExperts
from torch_compat.families.family import LAYER, Config, Family
from torch_compat.families.mixtures import shared_expert
from torch_compat.hf_rope import read_rope
from torch_compat.recipes import Choice, Recipe, Same, Stack


def words(config: Config) -> dict[str, Any]:
    """Its intermediate_size is that of the experts."""
    sizes = {"intermediate_size": config["intermediate_size_mlp"]}
    return sizes | {"moe_intermediate_size": config.get("intermediate_size", 8192)}


def switches(config: Config) -> dict[str, Any]:
    layers, step = range(config["num_hidden_layers"]), config["interleave_moe_layer_step"]
    every = config["no_rope_layer_interval"]
    turning = config.get("no_rope_layers") or [(i + 1) % every != 0 for i in layers]  # 1: a layer that has it
    with_experts = config.get("moe_layers")
    rope = read_rope(config, config["head_dim"], interleaved=True)
    still = Rope(config["head_dim"], kind="none")
    types = config.get("layer_types") or ["chunked_attention" if turns else "full_attention" for turns in turning]
    size, chunk = config["moe_intermediate_size"], config.get("attention_chunk_size")
    growth = QueryGrowth(config["attn_scale"], config["floor_scale"], from_one=True, still=True)
    return {
        "rope": rope,
        "layer_ropes": tuple(rope if turning[i] else still for i in layers),
        "chunks": tuple(chunk if types[i] == "chunked_attention" else None for i in layers),
        "qk_norm": "plain" if config["use_qk_norm"] else "",
        "query_growth": growth if config["attn_temperature_tuning"] else None,
        "mixture": Mixture(
            Router(config["num_local_experts"], config["num_experts_per_tok"], "top_sigmoid"),
            size,
            config.get("hidden_act", "silu"),
            weigh_inputs=True,
            shared_size=size,
            layers=tuple((i + 1) % step == 0 if with_experts is None else i in with_experts for i in layers),
        ),
    }


WEIGHTS: dict[str, Recipe | Choice] = {
    **LAYER,
    **shared_expert("feed_forward.shared_expert"),
    "router": Same("feed_forward.router.weight"),
    "experts_gate_up": FusedExperts("feed_forward.experts.gate_up_proj", "halves", transposed=True),
    "experts_down": FusedExperts("feed_forward.experts.down_proj", transposed=True),
    "gate_up": Stack("feed_forward.gate_proj.weight", "feed_forward.up_proj.weight"),
    "down": Same("feed_forward.down_proj.weight"),
}
DEFAULTS = {
    "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0, "intermediate_size_mlp": 16384, "num_local_experts": 16, "num_experts_per_tok": 1,
    "interleave_moe_layer_step": 1, "use_qk_norm": True, "no_rope_layer_interval": 4, "attention_chunk_size": 8192,
    "attn_temperature_tuning": True, "floor_scale": 8192, "attn_scale": 0.1,
}  # fmt: skip

FAMILIES = {
    "Llama4ForCausalLM": Family(
        note="attention in chunks, layers without rotation whose queries grow, experts in some layers or all",
        defaults=DEFAULTS, words=words, switches=switches, layer=WEIGHTS,
    ),
    "Llama4ForConditionalGeneration": Family(
        examples=("meta-llama/Llama-4-Scout-17B-16E-Instruct", "meta-llama/Llama-4-Maverick-17B-128E-Instruct"),
        note="text alone",
        defaults=DEFAULTS, text_part=True, words=words, switches=switches, layer=WEIGHTS,
    ),
}  # fmt: skip
