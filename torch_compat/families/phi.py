"""Phi 1 to 2, whose blocks stand beside each other, and Phi 3 to 4, which are Llama with fused weights."""

from __future__ import annotations

from typing import Any

from torch_compat.families.family import LAYER, OUTER, Config, Family, windows
from torch_compat.recipes import Heads, Same


def _phi_words(config: Config) -> dict[str, Any]:
    return {"rms_norm_eps": config["layer_norm_eps"], "attention_bias": True, "mlp_bias": True}


def _phi_switches(config: Config) -> dict[str, Any]:
    return {"norm": "layer", "norm_bias": True, "norm_places": "shared", "gated": False, "head_bias": True}


def _phi3_words(config: Config) -> dict[str, Any]:
    scaling = config.get("rope_scaling")
    if scaling and scaling.get("type", scaling.get("rope_type")) == "yarn":  # what longrope was called at first
        return {"rope_scaling": dict(scaling) | {"rope_type": "longrope", "type": "longrope"}}
    return {}


def _phi3_switches(config: Config) -> dict[str, Any]:
    return {"windows": windows(config, ["sliding_attention"] * config["num_hidden_layers"])}


FAMILIES = {
    "PhiForCausalLM": Family(
        examples=("microsoft/phi-1_5", "microsoft/phi-2"),
        note="blocks beside each other behind one layer norm, partial rotation, biases, one of the head too",
        defaults={
            "hidden_act": "gelu_new",
            "layer_norm_eps": 1e-5,
            "max_position_embeddings": 2048,
            "partial_rotary_factor": 0.5,
        },
        only={"qk_layernorm": (False,)},
        words=_phi_words,
        switches=_phi_switches,
        outer=OUTER
        | {"final_norm": Same("model.final_layernorm.weight"), "final_norm_bias": Same("model.final_layernorm.bias")},
        layer=LAYER
        | {
            "o": Same("self_attn.dense.weight"),
            "o_bias": Same("self_attn.dense.bias"),
            "up": Same("mlp.fc1.weight"),
            "up_bias": Same("mlp.fc1.bias"),
            "down": Same("mlp.fc2.weight"),
            "down_bias": Same("mlp.fc2.bias"),
        },
    ),
    "Phi3ForCausalLM": Family(
        examples=("microsoft/Phi-3.5-mini-instruct", "microsoft/Phi-4-mini-instruct", "microsoft/phi-4"),
        note="fused products, longrope, partial rotation, window",
        defaults={
            "max_position_embeddings": 4096,
            "original_max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
        },
        words=_phi3_words,
        switches=_phi3_switches,
        layer=LAYER
        | {
            "qkv": Heads(("self_attn.qkv_proj.weight",), fused="parts"),
            "gate_up": Same("mlp.gate_up_proj.weight", outputs=2),
        },
    ),
}
