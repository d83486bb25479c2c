"""Tables per model family: what config.json leaves out, and which checkpoint tensors make each of our weights. No code.

`hf_config.py` reads the defaults, `weights.py` the names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Family:
    """One architecture of Hugging Face transformers."""

    defaults: dict[str, Any] = field(default_factory=dict)  # transformers' values of keys that config.json may omit
    implied: dict[str, Any] = field(default_factory=dict)  # switches of ModelConfig that the architecture itself sets


# Our weight (without "layers.i.") → the checkpoint's tensors, in the order in which they are fused.
OUTER = {
    "embed": ("model.embed_tokens.weight",),
    "final_norm": ("model.norm.weight",),
    "head": ("lm_head.weight",),
}
LAYER = {
    "attention_norm": ("input_layernorm.weight",),
    "qkv": ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
    "qkv_bias": ("self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"),
    "q_norm": ("self_attn.q_norm.weight",),
    "k_norm": ("self_attn.k_norm.weight",),
    "o": ("self_attn.o_proj.weight",),
    "o_bias": ("self_attn.o_proj.bias",),
    "mlp_norm": ("post_attention_layernorm.weight",),
    "gate_up": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
    "gate_up_bias": ("mlp.gate_proj.bias", "mlp.up_proj.bias"),
    "down": ("mlp.down_proj.weight",),
    "down_bias": ("mlp.down_proj.bias",),
}
LAYER_PREFIX = "model.layers.{i}."
UNUSED = ("rotary_emb.inv_freq",)  # endings of tensors that checkpoints carry and no model needs

FAMILIES = {
    "LlamaForCausalLM": Family(defaults={"max_position_embeddings": 2048}),
    "MistralForCausalLM": Family(
        defaults={"num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096},
    ),
    "Qwen2ForCausalLM": Family(
        defaults={"num_key_value_heads": 32, "max_position_embeddings": 32768, "sliding_window": 4096},
        implied={"qkv_bias": True, "o_bias": False},
    ),
    "Qwen3ForCausalLM": Family(
        defaults={
            "num_key_value_heads": 32,
            "max_position_embeddings": 32768,
            "sliding_window": 4096,
            "head_dim": 128,
        },
        implied={"qk_norm": True},
    ),
}
