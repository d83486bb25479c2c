"""Llama and those that are built like it, with a switch or two of their own."""

from __future__ import annotations

from typing import Any

from jaxengine.layers.heads import QueryGrowth
from jaxengine.layers.rope import Rope
from torch_compat.families.family import LAYER, Config, Family, head_dim, windows
from torch_compat.hf_rope import read_rope
from torch_compat.recipes import Same


def mistral_switches(config: Config) -> dict[str, Any]:
    rope = config.get("rope_parameters") or {}
    beta = rope.get("llama_4_scaling_beta")
    return {
        "windows": windows(config, ["sliding_attention"] * config["num_hidden_layers"]),
        "query_growth": QueryGrowth(beta, rope["original_max_position_embeddings"]) if beta else None,
    }


def ministral_switches(config: Config) -> dict[str, Any]:
    types = config.get("layer_types") or ["sliding_attention"] * config["num_hidden_layers"]
    return {"windows": windows(config, types)}


def cwm_switches(config: Config) -> dict[str, Any]:
    layers = range(config["num_hidden_layers"])
    types = config.get("layer_types") or ["sliding_attention" if i % 4 else "full_attention" for i in layers]
    return {"windows": windows(config, types)}


def smollm3_switches(config: Config) -> dict[str, Any]:
    """Every fourth layer does not turn; those may have a window."""
    layers, interval = range(config["num_hidden_layers"]), config["no_rope_layer_interval"]
    turning = config.get("no_rope_layers") or [(i + 1) % interval for i in layers]  # 1: the layer turns, in spite of it
    rope, still = read_rope(config, head_dim(config)), Rope(head_dim(config), kind="none")
    types = config.get("layer_types") or ["full_attention" if turning[i] else "sliding_attention" for i in layers]
    return {
        "layer_ropes": tuple(rope if turning[i] else still for i in layers),
        "windows": windows(config, types) if config["use_sliding_window"] else (),
    }


def seed_switches(config: Config) -> dict[str, Any]:
    return {"o_bias": config["attention_out_bias"]}


def ernie_switches(config: Config) -> dict[str, Any]:
    bias = bool(config["use_bias"])
    rope = read_rope(config, head_dim(config), interleaved=True)
    return {"rope": rope, "qkv_bias": bias, "o_bias": bias, "mlp_bias": bias}


def arcee_switches(config: Config) -> dict[str, Any]:
    return {"gated": False}


def helium_switches(config: Config) -> dict[str, Any]:
    return {"rope": read_rope(config, head_dim(config), interleaved=True), "o_bias": False}


MISTRAL_DEFAULTS = {"num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096}
MINISTRAL3_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 1_000_000.0,
    "factor": 16.0,
    "original_max_position_embeddings": 16384,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale_all_dim": 1.0,
    "mscale": 1.0,
    "llama_4_scaling_beta": 0.1,
}

CWM_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 1_000_000.0,
    "factor": 16.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}

FAMILIES = {
    "LlamaForCausalLM": Family(
        examples=("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.2-1B", "TinyLlama/TinyLlama-1.1B-Chat-v1.0"),
        note="every scaling of RoPE, biases, tied embeddings",
        defaults={"max_position_embeddings": 2048},
    ),
    "MistralForCausalLM": Family(
        examples=("mistralai/Mistral-7B-Instruct-v0.3", "mistralai/Mistral-Nemo-Instruct-2407"),
        note="window",
        defaults=MISTRAL_DEFAULTS,
        switches=mistral_switches,
    ),
    "MinistralForCausalLM": Family(
        examples=("mistralai/Ministral-8B-Instruct-2410",),
        note="windows by layer",
        defaults=MISTRAL_DEFAULTS,
        switches=ministral_switches,
    ),
    "Ministral3ForCausalLM": Family(
        note="yarn, queries that grow with the position",
        defaults={
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 262144,
            "rms_norm_eps": 1e-5,
            "rope_parameters": MINISTRAL3_ROPE,
        },
        switches=mistral_switches,
    ),
    "Mistral3ForConditionalGeneration": Family(
        examples=("mistralai/Mistral-Small-3.2-24B-Instruct-2506", "mistralai/Ministral-3-8B-Instruct-2512-BF16"),
        note="text alone, of Mistral or Ministral 3",
        text_part=True,
        defaults=MISTRAL_DEFAULTS,
        switches=mistral_switches,
    ),
    "CwmForCausalLM": Family(
        examples=("facebook/cwm",),
        note="windows by layer",
        defaults={
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5,
            "sliding_window": 8192,
            "rope_parameters": CWM_ROPE,
        },
        switches=cwm_switches,
    ),
    "SmolLM3ForCausalLM": Family(
        examples=("HuggingFaceTB/SmolLM3-3B",),
        note="no rotation in every fourth layer, windows there",
        defaults={
            "num_key_value_heads": 4,
            "max_position_embeddings": 32768,
            "rope_theta": 2_000_000.0,
            "no_rope_layer_interval": 4,
            "use_sliding_window": False,
            "tie_word_embeddings": True,
        },
        switches=smollm3_switches,
    ),
    "SeedOssForCausalLM": Family(
        examples=("ByteDance-Seed/Seed-OSS-36B-Instruct",),
        note="biases of queries, keys and values, or of the output too",
        defaults={
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 524288,
            "attention_bias": True,
            "attention_out_bias": False,
        },
        switches=seed_switches,
    ),
    "Ernie4_5ForCausalLM": Family(
        examples=("baidu/ERNIE-4.5-0.3B-PT",),
        note="interleaved rotation, biases",
        defaults={
            "num_key_value_heads": 2,
            "head_dim": 128,
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500_000.0,
            "use_bias": False,
            "tie_word_embeddings": True,
        },
        switches=ernie_switches,
    ),
    "ArceeForCausalLM": Family(
        examples=("arcee-ai/AFM-4.5B",),
        note="feed-forwards without a gate, of squared relu; yarn",
        defaults={"max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "hidden_act": "relu2"},
        switches=arcee_switches,
        layer=LAYER | {"up": Same("mlp.up_proj.weight"), "up_bias": Same("mlp.up_proj.bias")},
    ),
    "HeliumForCausalLM": Family(
        examples=("kyutai/helium-1-2b",),
        note="interleaved rotation",
        defaults={
            "num_key_value_heads": 20,
            "head_dim": 128,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-8,
            "rope_theta": 100_000.0,
        },
        switches=helium_switches,
    ),
}
