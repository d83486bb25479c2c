"""Qwen2 and Qwen3, and the language models of those that see: positions of text are the same on all three axes."""

from __future__ import annotations

from typing import Any

from torch_compat.families.family import Config, Family, windows


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


def _seeing_words(config: Config) -> dict[str, Any]:
    """Rotation by three axes, which transformers 4 called a scaling, is the plain one for text."""
    stated = config.get("rope_scaling")
    if stated and "mrope" in (stated.get("type"), stated.get("rope_type")):
        return {"rope_scaling": dict(stated) | {"rope_type": "default"}}
    return {}


_defaults = {"num_key_value_heads": 32, "max_position_embeddings": 32768, "sliding_window": 4096}
_seeing_defaults = _defaults | {
    "num_key_value_heads": 8,
    "max_window_layers": 80,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1_000_000.0,
}

FAMILIES = {
    "Qwen2ForCausalLM": Family(
        examples=("Qwen/Qwen2.5-7B-Instruct", "Qwen/QwQ-32B", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"),
        note="biases, windows in the upper layers, yarn",
        defaults=_defaults,
        switches=qwen2_switches,
    ),
    "Qwen2VLForConditionalGeneration": Family(
        examples=("Qwen/Qwen2-VL-7B-Instruct",),
        note="text alone",
        text_part=True,
        defaults=_seeing_defaults,
        words=_seeing_words,
        switches=qwen2_switches,
    ),
    "Qwen2_5_VLForConditionalGeneration": Family(
        examples=("Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2.5-VL-72B-Instruct"),
        note="text alone",
        text_part=True,
        defaults=_seeing_defaults,
        words=_seeing_words,
        switches=qwen2_switches,
    ),
    "Qwen3ForCausalLM": Family(
        examples=("Qwen/Qwen3-0.6B", "Qwen/Qwen3-8B", "Qwen/Qwen3-32B"),
        note="norms of heads, yarn",
        defaults=_defaults | {"head_dim": 128},
        switches=qwen3_switches,
    ),
    "Qwen3VLForConditionalGeneration": Family(
        examples=("Qwen/Qwen3-VL-4B-Instruct", "Qwen/Qwen3-VL-32B-Thinking"),
        note="text alone",
        text_part=True,
        defaults={
            "num_key_value_heads": 32,
            "head_dim": 128,
            "max_position_embeddings": 128000,
            "rope_theta": 500_000.0,
        },
        words=_seeing_words,
        switches=qwen3_switches,
    ),
}
