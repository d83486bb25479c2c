"""GLM-4: half of a head's features turn, with their neighbours; since 0414 with norms on both sides of the blocks."""

from __future__ import annotations

from typing import Any

from torch_compat.families.family import LAYER, Config, Family, head_dim
from torch_compat.hf_rope import read_rope
from torch_compat.recipes import Same


def _glm_switches(config: Config) -> dict[str, Any]:
    return {"rope": read_rope(config, head_dim(config), interleaved=True), "o_bias": False}


def _glm4_switches(config: Config) -> dict[str, Any]:
    return _glm_switches(config) | {"norm_places": "both"}


_layer = LAYER | {"gate_up": Same("mlp.gate_up_proj.weight", outputs=2)}
_defaults = {
    "num_key_value_heads": 2,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1.5625e-7,
    "attention_bias": True,
    "partial_rotary_factor": 0.5,
}

FAMILIES = {
    "GlmForCausalLM": Family(
        examples=("zai-org/glm-4-9b-chat-hf", "zai-org/glm-edge-1.5b-chat"),
        note="interleaved partial rotation, fused gate and up",
        defaults=_defaults,
        switches=_glm_switches,
        layer=_layer,
    ),
    "Glm4ForCausalLM": Family(
        examples=("zai-org/GLM-4-9B-0414", "zai-org/GLM-Z1-32B-0414"),
        note="as GLM, norms on both sides",
        defaults=_defaults,
        switches=_glm4_switches,
        layer=_layer
        | {
            "attention_post_norm": Same("post_self_attn_layernorm.weight"),
            "mlp_post_norm": Same("post_mlp_layernorm.weight"),
        },
    ),
}
