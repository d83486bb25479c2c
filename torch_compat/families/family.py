"""What one architecture of Hugging Face transformers is to us: tables, and the few rules that tables cannot say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch_compat.recipes import HeadNorm, Heads, Recipe, Same, Stack, Table

Config = Mapping[str, Any]  # config.json


def _nothing(config: Config) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Family:
    """One architecture: `hf_config.py` reads its config by it, `weights.py` its checkpoint."""

    defaults: Config = field(default_factory=dict)  # transformers' values of keys that config.json may omit
    words: Callable[[Config], dict[str, Any]] = _nothing  # keys of config.json by the names that Llama has for them
    switches: Callable[[Config], dict[str, Any]] = _nothing  # fields of ModelConfig that differ from the common reading
    outer: Mapping[str, Recipe] = field(default_factory=lambda: OUTER)
    layer: Mapping[str, Recipe] = field(default_factory=lambda: LAYER)  # names without the layer's prefix
    layer_prefix: str = "model.layers.{i}."
    prefix: str = "model."  # of names, which checkpoints of the bare model leave out
    unused: tuple[str, ...] = ("rotary_emb.inv_freq",)  # endings of tensors that checkpoints carry and no model needs


# Our weight (without "layers.i.") → how the checkpoint's tensors make it. Llama's names, which most have taken over.
OUTER: dict[str, Recipe] = {
    "embed": Table("model.embed_tokens.weight"),
    "final_norm": Same("model.norm.weight"),
    "final_norm_bias": Same("model.norm.bias"),
    "head": Table("lm_head.weight"),
    "head_bias": Table("lm_head.bias"),
}
LAYER: dict[str, Recipe] = {
    "attention_norm": Same("input_layernorm.weight"),
    "attention_norm_bias": Same("input_layernorm.bias"),
    "qkv": Heads(("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight")),
    "qkv_bias": Heads(("self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias")),
    "q_norm": HeadNorm("self_attn.q_norm.weight"),
    "k_norm": HeadNorm("self_attn.k_norm.weight"),
    "o": Same("self_attn.o_proj.weight"),
    "o_bias": Same("self_attn.o_proj.bias"),
    "mlp_norm": Same("post_attention_layernorm.weight"),
    "mlp_norm_bias": Same("post_attention_layernorm.bias"),
    "gate_up": Stack("mlp.gate_proj.weight", "mlp.up_proj.weight"),
    "gate_up_bias": Stack("mlp.gate_proj.bias", "mlp.up_proj.bias"),
    "down": Same("mlp.down_proj.weight"),
    "down_bias": Same("mlp.down_proj.bias"),
}


def windows(config: Config, types: list[str] | None = None) -> tuple[int | None, ...]:
    """Sliding window per layer, by the layers' types; empty where no layer has one."""
    types, window = (
        (types or config.get("layer_types") or [])[: config["num_hidden_layers"]],
        config.get("sliding_window"),
    )
    if window is None or "sliding_attention" not in types:
        return ()
    return tuple(window if kind == "sliding_attention" else None for kind in types)
