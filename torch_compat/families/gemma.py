"""Gemma 1 to 3: norms by 1 + w, scaled embeddings; since 2 norms on both sides and softcaps, in 3 norms of heads."""

from __future__ import annotations

from typing import Any

from torch_compat.families.family import LAYER, OUTER, Config, Family, layer_types, windows
from torch_compat.hf_rope import read_ropes_by_type
from torch_compat.recipes import HeadNorm, Same


def _gemma_switches(config: Config) -> dict[str, Any]:
    # the first checkpoints say gelu and were trained with its approximation
    exact = config["hidden_act"] == "gelu"
    return {
        "norm_float32": True,
        "embed_scale": config["hidden_size"] ** 0.5,
        "activation": "gelu_pytorch_tanh" if exact else config["hidden_act"],
    }


def _gemma2_words(config: Config) -> dict[str, Any]:
    return {"hidden_act": config["hidden_activation"]}


def _gemma2_switches(config: Config) -> dict[str, Any]:
    return {
        "norm_float32": True,
        "embed_scale": config["hidden_size"] ** 0.5,
        "norm_places": "both",
        "attention_scale": config["query_pre_attn_scalar"] ** -0.5,
        "attention_softcap": config["attn_logit_softcapping"],
        "logits_softcap": config["final_logit_softcapping"],
        "windows": windows(config, layer_types(config, 2)),
    }


def _vault_gemma_switches(config: Config) -> dict[str, Any]:
    return _gemma2_switches(config) | {"norm_places": "pre"}


def _gemma3_words(config: Config) -> dict[str, Any]:
    scaling = config.get("rope_scaling") or (config.get("rope_parameters") or {}).get("full_attention") or {}
    factor = int(scaling.get("factor") or 1)  # the length is of the stretched positions already
    return _gemma2_words(config) | {"max_position_embeddings": config["max_position_embeddings"] // factor}


def _gemma3_switches(config: Config) -> dict[str, Any]:
    types = layer_types(config, config["sliding_window_pattern"])
    return _gemma2_switches(config) | {
        "qk_norm": "head",
        "windows": windows(config, types),
        **read_ropes_by_type(config, config["head_dim"], types, config["rope_local_base_freq"]),
    }


_outer = OUTER | {"final_norm": Same("model.norm.weight", plus=1)}
_layer = LAYER | {
    "attention_norm": Same("input_layernorm.weight", plus=1),
    "mlp_norm": Same("post_attention_layernorm.weight", plus=1),
}
_layer2 = _layer | {
    "attention_post_norm": Same("post_attention_layernorm.weight", plus=1),
    "mlp_norm": Same("pre_feedforward_layernorm.weight", plus=1),
    "mlp_post_norm": Same("post_feedforward_layernorm.weight", plus=1),
    "q_norm": HeadNorm("self_attn.q_norm.weight", plus=1),
    "k_norm": HeadNorm("self_attn.k_norm.weight", plus=1),
}
_defaults = {
    "num_key_value_heads": 16,
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
_defaults2 = _defaults | {
    "num_key_value_heads": 4,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "final_logit_softcapping": 30.0,
    "attn_logit_softcapping": 50.0,
}
_defaults3 = _defaults2 | {  # released ones leave out even sizes
    "vocab_size": 262208,
    "num_attention_heads": 8,
    "max_position_embeddings": 131072,
    "final_logit_softcapping": None,
    "attn_logit_softcapping": None,
    "sliding_window_pattern": 6,
    "rope_theta": 1_000_000.0,
    "rope_local_base_freq": 10_000.0,
}
_only = {"use_bidirectional_attention": (False, None)}

FAMILIES = {
    "GemmaForCausalLM": Family(
        examples=("google/gemma-2b", "google/gemma-7b-it"),
        note="1 + w norms, scaled embeddings, one kv head",
        defaults=_defaults,
        only=_only,
        switches=_gemma_switches,
        outer=_outer,
        layer=_layer,
    ),
    "Gemma2ForCausalLM": Family(
        examples=("google/gemma-2-2b-it", "google/gemma-2-27b-it"),
        note="softcaps of scores and logits, windows in every other layer, norms on both sides",
        defaults=_defaults2,
        only=_only,
        words=_gemma2_words,
        switches=_gemma2_switches,
        outer=_outer,
        layer=_layer2,
    ),
    "VaultGemmaForCausalLM": Family(
        examples=("google/vaultgemma-1b",),
        note="as Gemma 2, norms before the blocks alone",
        defaults=_defaults2,
        words=_gemma2_words,
        switches=_vault_gemma_switches,
        outer=_outer,
        layer=_layer2,
    ),
    "Gemma3ForCausalLM": Family(
        examples=("google/gemma-3-270m-it", "google/gemma-3-1b-it"),
        note="windows in five of six layers with a rotation of their own, norms of heads, linear RoPE",
        defaults=_defaults3,
        only=_only,
        words=_gemma3_words,
        switches=_gemma3_switches,
        outer=_outer,
        layer=_layer2,
    ),
    "Gemma3ForConditionalGeneration": Family(
        examples=("google/gemma-3-4b-it", "google/gemma-3-27b-it"),
        note="text alone",
        text_part=True,
        defaults=_defaults3,
        only=_only,
        words=_gemma3_words,
        switches=_gemma3_switches,
        outer=_outer,
        layer=_layer2,
    ),
}
