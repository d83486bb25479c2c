"""OLMo 1 to 3: norms without weights at first, then norms behind the blocks, then windows too; and EXAONE 4."""

from __future__ import annotations

from typing import Any

from jaxengine.layers.rope import Rope
from torch_compat.families.family import LAYER, Config, Family, head_dim, layer_types, windows
from torch_compat.hf_rope import read_rope, read_ropes_by_type
from torch_compat.recipes import QkNorms, Same


def _olmo_switches(config: Config) -> dict[str, Any]:
    return {"norm": "layer", "norm_weight": False, "norm_eps": 1e-5, "qkv_clip": config.get("clip_qkv")}


def _olmo2_switches(config: Config) -> dict[str, Any]:
    return {"norm_places": "post", "qk_norm": "all"}


def _olmo3_switches(config: Config) -> dict[str, Any]:
    types = layer_types(config, 4)
    ropes = read_ropes_by_type(config, head_dim(config), types, config["rope_theta"])
    return _olmo2_switches(config) | {"windows": windows(config, types)} | ropes


def _exaone4_switches(config: Config) -> dict[str, Any]:
    """Where some layers have a window, only they turn."""
    types = _exaone4_types(config)
    rope, still = read_rope(config, head_dim(config)), Rope(head_dim(config), kind="none")
    alike = config["sliding_window"] is None
    return {
        "norm_places": "post",
        "qk_norm": "head",
        "windows": windows(config, types),
        "layer_ropes": () if alike else tuple(rope if kind == "sliding_attention" else still for kind in types),
    }


def _exaone4_types(config: Config) -> list[str]:
    pattern = config["sliding_window_pattern"]
    if config["sliding_window"] is None or config.get("layer_types") or isinstance(pattern, int):
        return layer_types(config, pattern or 1)
    layers = config["num_hidden_layers"]  # "LLLG": local and global, the last one global
    types = ["full_attention" if pattern[i % len(pattern)] == "G" else "sliding_attention" for i in range(layers)]
    return [*types[:-1], "full_attention"]


_post = LAYER | {
    "attention_post_norm": Same("post_attention_layernorm.weight"),
    "mlp_post_norm": Same("post_feedforward_layernorm.weight"),
}
_olmo2 = _post | {"qk_norm": QkNorms("self_attn.q_norm.weight", "self_attn.k_norm.weight", flat=True)}
_defaults = {"max_position_embeddings": 2048, "rms_norm_eps": 1e-5}

FAMILIES = {
    "OlmoForCausalLM": Family(
        examples=("allenai/OLMo-1B-hf", "allenai/OLMo-7B-0724-hf"),
        note="norms without weights, bounded queries, keys and values",
        defaults=_defaults,
        switches=_olmo_switches,
    ),
    "Olmo2ForCausalLM": Family(
        examples=("allenai/OLMo-2-0425-1B-Instruct", "allenai/OLMo-2-0325-32B-Instruct"),
        note="norms behind the blocks, and of queries and keys over all heads",
        defaults=_defaults,
        switches=_olmo2_switches,
        layer=_olmo2,
    ),
    "Olmo3ForCausalLM": Family(
        examples=("allenai/Olmo-3-7B-Instruct", "allenai/Olmo-3-32B-Think"),
        note="as OLMo 2, windows in three of four layers, yarn in the others",
        defaults=_defaults | {"sliding_window": 4096, "rope_theta": 500_000.0},
        switches=_olmo3_switches,
        layer=_olmo2,
    ),
    "Exaone4ForCausalLM": Family(
        examples=("LGAI-EXAONE/EXAONE-4.0-1.2B", "LGAI-EXAONE/EXAONE-4.0-32B"),
        note="norms behind the blocks and of heads, windows, no rotation in layers without a window",
        defaults=_defaults | {"num_key_value_heads": 32, "sliding_window": 4096, "sliding_window_pattern": 4},
        switches=_exaone4_switches,
        layer=_post,
    ),
}
