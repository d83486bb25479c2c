"""Granite and HyperCLOVA X: Llama with scales on embeddings, residuals, scores and logits."""

from __future__ import annotations

from typing import Any

from torch_compat.families.family import LAYER, Config, Family, head_dim
from torch_compat.recipes import Same


def _granite_switches(config: Config) -> dict[str, Any]:
    return {
        "embed_scale": config["embedding_multiplier"],
        "residual_scale": config["residual_multiplier"],
        "attention_scale": config["attention_multiplier"],
        "logits_scale": 1 / config["logits_scaling"],
    }


def _hyperclova_switches(config: Config) -> dict[str, Any]:
    places = "both" if config["use_post_norm"] else "pre"
    return _granite_switches(config) | {
        "attention_scale": config["attention_multiplier"] or head_dim(config) ** -0.5,
        "logits_scale": config["logits_scaling"],
        "norm_places": places,
    }


_defaults = {
    "max_position_embeddings": 2048,
    "embedding_multiplier": 1.0,
    "residual_multiplier": 1.0,
    "attention_multiplier": 1.0,
    "logits_scaling": 1.0,
}

FAMILIES = {
    "GraniteForCausalLM": Family(
        examples=("ibm-granite/granite-3.3-8b-instruct", "ibm-granite/granite-3.3-2b-instruct"),
        note="scaled embeddings, residuals, scores and logits",
        defaults=_defaults,
        switches=_granite_switches,
    ),
    "HyperCLOVAXForCausalLM": Family(
        examples=("naver-hyperclovax/HyperCLOVAX-SEED-Think-14B",),
        note="as Granite, norms on both sides",
        defaults=_defaults | {"attention_multiplier": None, "use_post_norm": True},
        switches=_hyperclova_switches,
        layer=LAYER | {"attention_post_norm": Same("post_norm1.weight"), "mlp_post_norm": Same("post_norm2.weight")},
    ),
}
