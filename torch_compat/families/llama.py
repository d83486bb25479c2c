"""Llama and those that are built like it: Mistral, Qwen2, Qwen3."""

from __future__ import annotations

from typing import Any

from torch_compat.families.family import Config, Family, windows


def mistral_switches(config: Config) -> dict[str, Any]:
    return {"windows": windows(config, ["sliding_attention"] * config["num_hidden_layers"])}


def qwen_windows(config: Config) -> tuple[int | None, ...]:
    """The upper layers have one, where the switch for it is on."""
    if not config.get("use_sliding_window"):
        return ()
    first, layers = config.get("max_window_layers", 28), range(config["num_hidden_layers"])
    return windows(
        config, config.get("layer_types") or ["sliding_attention" if i >= first else "full_attention" for i in layers]
    )


def qwen2_switches(config: Config) -> dict[str, Any]:
    return {"qkv_bias": True, "o_bias": False, "windows": qwen_windows(config)}


def qwen3_switches(config: Config) -> dict[str, Any]:
    return {"qk_norm": "head", "windows": qwen_windows(config)}


QWEN_DEFAULTS = {"num_key_value_heads": 32, "max_position_embeddings": 32768, "sliding_window": 4096}

FAMILIES = {
    "LlamaForCausalLM": Family(defaults={"max_position_embeddings": 2048}),
    "MistralForCausalLM": Family(
        defaults={"num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096},
        switches=mistral_switches,
    ),
    "Qwen2ForCausalLM": Family(defaults=QWEN_DEFAULTS, switches=qwen2_switches),
    "Qwen3ForCausalLM": Family(defaults=QWEN_DEFAULTS | {"head_dim": 128}, switches=qwen3_switches),
}
