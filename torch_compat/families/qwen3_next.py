"""Qwen3-Next and Qwen3.5: three layers of gated DeltaNet to one of gated attention, dense or with experts."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxengine.layers.gated_delta import DeltaSizes
from torch_compat.expert_recipes import EachExpert, FusedExperts
from torch_compat.families.family import OUTER, Config, Family, mixers
from torch_compat.families.mixtures import QWEN2, qwen_mixture
from torch_compat.pieces import FusedOrEach, GatedHeads, delta_conv, delta_input, head_gates
from torch_compat.recipes import Choice, HeadNorm, Recipe, Same


def qwen_words(config: Config) -> dict[str, Any]:
    """Every fourth layer attends, where config.json does not say which."""
    every, layers = config.get("full_attention_interval", 4), range(config["num_hidden_layers"])
    types = ["linear_attention" if (i + 1) % every else "full_attention" for i in layers]
    return {"layer_types": config.get("layer_types") or types}


def qwen_moe_words(config: Config) -> dict[str, Any]:
    """No layer of Qwen3.5's mixtures is dense, and each normalises its weights."""
    always = {"intermediate_size": config["moe_intermediate_size"], "decoder_sparse_step": 1, "norm_topk_prob": True}
    return qwen_words(config) | always


def qwen_switches(config: Config) -> dict[str, Any]:
    return {
        "mixers": mixers(config["layer_types"]),
        "recurrent": DeltaSizes(
            key_heads=config["linear_num_key_heads"],
            value_heads=config["linear_num_value_heads"],
            key_dim=config["linear_key_head_dim"],
            value_dim=config["linear_value_head_dim"],
            conv_width=config["linear_conv_kernel_dim"],
        ),
        "qk_norm": "head",
        "attention_gate": True,
        "norm_float32": True,
    }


def qwen_moe_switches(config: Config) -> dict[str, Any]:
    shared = config["shared_expert_intermediate_size"]
    return qwen_switches(config) | {"mixture": qwen_mixture(config, shared_size=shared, shared_gate=True)}


QWEN_DEFAULTS = {
    "head_dim": 256,
    "max_position_embeddings": 32768,
    "partial_rotary_factor": 0.25,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
}
QWEN_MOE_DEFAULTS = QWEN_DEFAULTS | {
    "num_key_value_heads": 2,
    "decoder_sparse_step": 1,
    "norm_topk_prob": True,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
}
QWEN_LAYER: dict[str, Recipe | Choice] = QWEN2 | {
    "attention_norm": Same("input_layernorm.weight", plus=1.0),
    "qkv": GatedHeads(("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight")),
    "q_norm": HeadNorm("self_attn.q_norm.weight", plus=1.0),
    "k_norm": HeadNorm("self_attn.k_norm.weight", plus=1.0),
    "gate": head_gates("self_attn.q_proj.weight"),
    "conv": delta_conv("linear_attn.conv1d.weight"),
    "dt_bias": Same("linear_attn.dt_bias", outputs=2),
    "a_log": Same("linear_attn.A_log", outputs=2),
    "inner_norm": Same("linear_attn.norm.weight"),
    "mix_out": Same("linear_attn.out_proj.weight"),
    "mlp_norm": Same("post_attention_layernorm.weight", plus=1.0),
}
QWEN3_NEXT_INPUT = delta_input("linear_attn.in_proj_qkvz.weight", "linear_attn.in_proj_ba.weight")
QWEN3_5_INPUT = delta_input(*(f"linear_attn.in_proj_{part}.weight" for part in ("qkv", "z", "b", "a")))
QWEN3_5_EXPERTS = {
    "experts_gate_up": FusedOrEach(
        FusedExperts("mlp.experts.gate_up_proj", "halves"),
        EachExpert("mlp.experts.{x}.gate_proj.weight", "mlp.experts.{x}.up_proj.weight"),
    ),
    "experts_down": FusedOrEach(FusedExperts("mlp.experts.down_proj"), EachExpert("mlp.experts.{x}.down_proj.weight")),
}
QWEN_OUTER: dict[str, Recipe] = OUTER | {"final_norm": Same("model.norm.weight", plus=1.0)}

QWEN3_5 = Family(
    examples=("Qwen/Qwen3.5-9B", "Qwen/Qwen3.5-27B"),
    note="gated delta rule between gated attention, partial rotation",
    defaults=QWEN_DEFAULTS | {"num_key_value_heads": 4},
    only={"attention_bias": (False,)},
    words=qwen_words,
    switches=qwen_switches,
    outer=QWEN_OUTER,
    layer=QWEN_LAYER | {"mix_in": QWEN3_5_INPUT},
)
QWEN3_5_MOE = Family(
    examples=("Qwen/Qwen3.5-35B-A3B",),
    note="as Qwen3.5, with experts and a gated shared one",
    defaults=QWEN_MOE_DEFAULTS | {"num_experts": 256, "num_experts_per_tok": 8},
    only={"attention_bias": (False,)},
    words=qwen_moe_words,
    switches=qwen_moe_switches,
    outer=QWEN_OUTER,
    layer=QWEN_LAYER | QWEN3_5_EXPERTS | {"mix_in": QWEN3_5_INPUT},
)
FAMILIES = {
    "Qwen3NextForCausalLM": Family(
        examples=("Qwen/Qwen3-Next-80B-A3B-Instruct",),
        note="gated delta rule between gated attention, partial rotation, experts and a gated shared one",
        defaults=QWEN_MOE_DEFAULTS | {"num_experts": 512, "num_experts_per_tok": 10},
        only={"attention_bias": (False,)},
        words=qwen_words,
        switches=qwen_moe_switches,
        outer=QWEN_OUTER,
        layer=QWEN_LAYER | {"mix_in": QWEN3_NEXT_INPUT},
    ),
    "Qwen3_5ForCausalLM": QWEN3_5,
    "Qwen3_5ForConditionalGeneration": dataclasses.replace(QWEN3_5, text_part=True, note="text alone"),
    "Qwen3_5MoeForCausalLM": QWEN3_5_MOE,
    "Qwen3_5MoeForConditionalGeneration": dataclasses.replace(QWEN3_5_MOE, text_part=True, note="text alone"),
}  # fmt: skip
