"""Command R and Command A: blocks beside each other behind one layer norm, neighbours turn, scaled logits."""

from __future__ import annotations

from typing import Any

from jaxengine.layers.rope import Rope
from torch_compat.families.family import LAYER, Config, Family, head_dim, layer_types, windows
from torch_compat.hf_rope import read_rope
from torch_compat.recipes import QkNorms


def _words(config: Config) -> dict[str, Any]:
    return {"rms_norm_eps": config["layer_norm_eps"]}


def _cohere_switches(config: Config) -> dict[str, Any]:
    return {
        "norm": "layer",
        "norm_places": "shared",
        "rope": read_rope(config, head_dim(config), interleaved=True),
        "qk_norm": "layer" if config["use_qk_norm"] else "",
        "logits_scale": config["logit_scale"],
    }


def _cohere2_switches(config: Config) -> dict[str, Any]:
    types = layer_types(config, config["sliding_window_pattern"])
    switches = _cohere_switches(config)
    still = Rope(head_dim(config), kind="none")
    ropes = tuple(switches["rope"] if kind == "sliding_attention" else still for kind in types)
    return switches | {"windows": windows(config, types), "layer_ropes": ropes}


_defaults = {
    "logit_scale": 0.0625,
    "max_position_embeddings": 8192,
    "layer_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "use_qk_norm": False,
}

FAMILIES = {
    "CohereForCausalLM": Family(
        examples=("CohereLabs/c4ai-command-r-v01", "CohereLabs/aya-expanse-8b"),
        note="blocks beside each other, interleaved rotation, layer norms of heads, scaled logits",
        defaults=_defaults | {"rope_theta": 500_000.0},
        words=_words,
        switches=_cohere_switches,
        layer=LAYER | {"qk_norm": QkNorms("self_attn.q_norm.weight", "self_attn.k_norm.weight")},
    ),
    "Cohere2ForCausalLM": Family(
        examples=("CohereLabs/c4ai-command-r7b-12-2024", "CohereLabs/c4ai-command-a-03-2025"),
        note="as Cohere, windows in three of four layers, no rotation in the others",
        defaults=_defaults | {"sliding_window": 4096, "sliding_window_pattern": 4},
        words=_words,
        switches=_cohere2_switches,
    ),
}
