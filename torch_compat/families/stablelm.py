"""Those with layer norms and Llama's layout: StableLM, StarCoder 2 and Nemotron."""

from __future__ import annotations

from typing import Any

from torch_compat.families.family import LAYER, OUTER, Config, Family, windows
from torch_compat.recipes import QkNorms, Same


def _stablelm_words(config: Config) -> dict[str, Any]:
    return {"rms_norm_eps": config["layer_norm_eps"]}


def _stablelm_switches(config: Config) -> dict[str, Any]:
    return {
        "norm": "layer",
        "norm_bias": True,
        "norm_places": "shared" if config["use_parallel_residual"] else "pre",
        "qkv_bias": config["use_qkv_bias"],
        "qk_norm": "layer" if config["qk_layernorm"] else "",
    }


def _starcoder2_words(config: Config) -> dict[str, Any]:
    bias = config["use_bias"]
    return {"rms_norm_eps": config["norm_epsilon"], "attention_bias": bias, "mlp_bias": bias}


def _starcoder2_switches(config: Config) -> dict[str, Any]:
    types = ["sliding_attention"] * config["num_hidden_layers"]
    return {"norm": "layer", "norm_bias": True, "gated": False, "windows": windows(config, types)}


def _nemotron_words(config: Config) -> dict[str, Any]:
    return {"rms_norm_eps": config["norm_eps"]}


def _nemotron_switches(config: Config) -> dict[str, Any]:
    return {"norm": "layer", "norm_bias": True, "gated": False}


FAMILIES = {
    "StableLmForCausalLM": Family(
        examples=(
            "stabilityai/stablelm-2-1_6b-chat",
            "stabilityai/stablelm-2-12b-chat",
            "stabilityai/stablelm-3b-4e1t",
        ),
        note="layer norms, of each head too, blocks beside each other or not, partial rotation",
        defaults={
            "num_key_value_heads": 32,
            "max_position_embeddings": 4096,
            "layer_norm_eps": 1e-5,
            "use_qkv_bias": False,
            "qk_layernorm": False,
            "use_parallel_residual": False,
            "partial_rotary_factor": 0.25,
        },
        words=_stablelm_words,
        switches=_stablelm_switches,
        layer=LAYER
        | {
            "qk_norm": QkNorms("self_attn.q_layernorm.norms.{head}.weight", "self_attn.k_layernorm.norms.{head}.weight")
        },
    ),
    "Starcoder2ForCausalLM": Family(
        examples=("bigcode/starcoder2-3b", "bigcode/starcoder2-15b"),
        note="layer norms, biases, window",
        defaults={
            "num_key_value_heads": 2,
            "hidden_act": "gelu_pytorch_tanh",
            "max_position_embeddings": 4096,
            "norm_epsilon": 1e-5,
            "use_bias": True,
            "tie_word_embeddings": True,
        },
        words=_starcoder2_words,
        switches=_starcoder2_switches,
        layer=LAYER
        | {
            "up": Same("mlp.c_fc.weight"),
            "up_bias": Same("mlp.c_fc.bias"),
            "down": Same("mlp.c_proj.weight"),
            "down_bias": Same("mlp.c_proj.bias"),
        },
    ),
    "NemotronForCausalLM": Family(
        examples=("nvidia/Minitron-8B-Base", "nvidia/Nemotron-Mini-4B-Instruct"),
        note="layer norms by 1 + w, feed-forwards without a gate, of squared relu, partial rotation",
        defaults={
            "hidden_act": "relu2",
            "max_position_embeddings": 4096,
            "norm_eps": 1e-5,
            "partial_rotary_factor": 0.5,
        },
        words=_nemotron_words,
        switches=_nemotron_switches,
        outer=OUTER | {"final_norm": Same("model.norm.weight", plus=1)},
        layer=LAYER
        | {
            "attention_norm": Same("input_layernorm.weight", plus=1),
            "mlp_norm": Same("post_attention_layernorm.weight", plus=1),
            "up": Same("mlp.up_proj.weight"),
            "up_bias": Same("mlp.up_proj.bias"),
        },
    ),
}
