"""Apertus, whose feed-forwards learn their activation, and Hunyuan, which normalises heads once they are rotated."""

from __future__ import annotations

from typing import Any

from torch_compat.families.family import LAYER, Config, Family, head_dim
from torch_compat.recipes import HeadNorm, Same, Stack


def _apertus_switches(config: Config) -> dict[str, Any]:
    return {"gated": False, "qk_norm": "head"}


def _hunyuan_words(config: Config) -> dict[str, Any]:
    """What it calls dynamic does not depend on the length where it states an alpha: the base is larger, that is all."""
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not scaling.get("alpha"):
        return {}
    base, dim = scaling.get("rope_theta") or config.get("rope_theta") or 10000.0, head_dim(config)
    theta = base * scaling["alpha"] ** (dim / (dim - 2))
    return {"rope_scaling": None, "rope_parameters": None, "rope_theta": theta}


def _hunyuan_switches(config: Config) -> dict[str, Any]:
    return {"qk_norm": "turned"}


FAMILIES = {
    "ApertusForCausalLM": Family(
        examples=("swiss-ai/Apertus-8B-Instruct-2509", "swiss-ai/Apertus-70B-Instruct-2509"),
        note="xIELU with learned sides, norms of heads, llama3's RoPE",
        defaults={
            "hidden_act": "xielu",
            "max_position_embeddings": 65536,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 12_000_000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
        },
        switches=_apertus_switches,
        layer=LAYER
        | {
            "attention_norm": Same("attention_layernorm.weight"),
            "mlp_norm": Same("feedforward_layernorm.weight"),
            "up": Same("mlp.up_proj.weight"),
            "xielu": Stack("mlp.act_fn.alpha_p", "mlp.act_fn.alpha_n"),
        },
        unused=("rotary_emb.inv_freq", ".act_fn.beta", ".act_fn.eps"),  # both constants
    ),
    "HunYuanDenseV1ForCausalLM": Family(
        examples=("tencent/Hunyuan-0.5B-Instruct", "tencent/Hunyuan-7B-Instruct", "tencent/Hunyuan-MT-7B"),
        note="norms of rotated heads, RoPE with alpha",
        defaults={"max_position_embeddings": 2048, "rms_norm_eps": 1e-5},
        words=_hunyuan_words,
        switches=_hunyuan_switches,
        layer=LAYER
        | {
            "q_norm": HeadNorm("self_attn.query_layernorm.weight"),
            "k_norm": HeadNorm("self_attn.key_layernorm.weight"),
        },
    ),
}
