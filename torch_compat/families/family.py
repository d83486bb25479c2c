"""What one architecture of Hugging Face transformers is to us: tables, and the few rules that tables cannot say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxengine.models import UnsupportedModel
from torch_compat.recipes import Choice, HeadNorm, Heads, Recipe, Same, Stack, Table

Config = Mapping[str, Any]  # config.json


def _nothing(config: Config) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Family:
    """One architecture: `hf_config.py` reads its config by it, `weights.py` its checkpoint."""

    examples: tuple[str, ...] = ()  # released checkpoints
    note: str = ""  # what of it is tested, and what is to know: docs/models.md shows both
    defaults: Config = field(default_factory=dict)  # transformers' values of keys that config.json may omit
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)  # the values of keys that are served, if not all
    text_part: bool = False  # the language model within one that also sees: text_config, and names of its own
    words: Callable[[Config], dict[str, Any]] = _nothing  # keys of config.json by the names that Llama has for them
    quantized: tuple[str, ...] = ()  # methods of config.json's quantization_config whose tensors its recipes read
    switches: Callable[[Config], dict[str, Any]] = _nothing  # fields of ModelConfig that differ from the common reading
    outer: Mapping[str, Recipe] = field(default_factory=lambda: OUTER)
    layer: Mapping[str, Recipe | Choice] = field(default_factory=lambda: LAYER)  # names without the layer's prefix
    layer_prefix: str = "model.layers.{i}."
    prefix: str = "model."  # of names, which checkpoints of the bare model leave out
    unused: tuple[str, ...] = ("rotary_emb.inv_freq",)  # endings of tensors that checkpoints carry and no model needs
    beside: tuple[str, ...] = ("mtp.",)  # beginnings of those of other parts: heads that draft tokens


MIXERS = {  # a layer's type in config.json → how its tokens see one another
    "full_attention": "attention", "attention": "attention", "linear_attention": "recurrent", "mamba": "recurrent",
    "conv": "recurrent", "mlp": "", "moe": "",
}  # fmt: skip

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


def head_dim(config: Config) -> int:
    """Features of a head, stated or not."""
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def layer_types(config: Config, pattern: int) -> list[str]:
    """Each layer's type, as stated, or else with all but every `pattern`th layer seeing a window."""
    layers = range(config["num_hidden_layers"])
    stated = config.get("layer_types")
    return stated or ["sliding_attention" if (i + 1) % pattern else "full_attention" for i in layers]


def windows(config: Config, types: list[str] | None = None) -> tuple[int | None, ...]:
    """Sliding window per layer, by the layers' types; empty where no layer has one."""
    types = (types or config.get("layer_types") or [])[: config["num_hidden_layers"]]
    window = config.get("sliding_window")
    if window is None or "sliding_attention" not in types:
        return ()
    return tuple(window if kind == "sliding_attention" else None for kind in types)


def mixers(types: Sequence[str]) -> tuple[str, ...]:
    """Of each layer (ModelConfig.mixers), by its name in config.json."""
    unknown = sorted(set(types) - set(MIXERS))
    if unknown:
        raise UnsupportedModel(
            f"config.json: layers of type {unknown[0]!r} are not supported; use {', '.join(MIXERS)}."
        )
    return tuple(MIXERS[kind] for kind in types)
