"""gpt-oss: sinks, every other layer with a window, experts with biases and a clamped activation, mostly in MXFP4."""

from __future__ import annotations

from typing import Any

from jaxengine.layers.experts import Mixture
from jaxengine.layers.router import Router
from pallas_kernels.grouped_matmul import ClampedSwiglu
from torch_compat.expert_recipes import FusedExperts, Mxfp4Experts, OneOf
from torch_compat.families.family import LAYER, Config, Family, layer_types, windows
from torch_compat.recipes import Choice, Recipe, Same


def switches(config: Config) -> dict[str, Any]:
    activation = ClampedSwiglu(float(config["swiglu_alpha"]), float(config["swiglu_limit"]))
    router = Router(config["num_local_experts"], config["num_experts_per_tok"], "top_softmax", bias=True)
    return {
        "sinks": True,
        "windows": windows(config, layer_types(config, 2)),
        "mixture": Mixture(router, config["intermediate_size"], activation, bias=True),
    }


GATE_UP, DOWN = "mlp.experts.gate_up_proj", "mlp.experts.down_proj"
WEIGHTS: dict[str, Recipe | Choice] = {
    **LAYER,
    "sinks": Same("self_attn.sinks", outputs=2),
    "router": Same("mlp.router.weight"),
    "router_bias": Same("mlp.router.bias"),
    "experts_gate_up": OneOf(Mxfp4Experts(GATE_UP, "neighbours"), FusedExperts(GATE_UP, "neighbours", transposed=True)),
    "experts_gate_up_bias": FusedExperts(f"{GATE_UP}_bias", "neighbours"),
    "experts_down": OneOf(Mxfp4Experts(DOWN), FusedExperts(DOWN, transposed=True)),
    "experts_down_bias": FusedExperts(f"{DOWN}_bias"),
}

FAMILIES = {
    "GptOssForCausalLM": Family(
        examples=("openai/gpt-oss-20b", "openai/gpt-oss-120b"),
        note="MXFP4 weights read as 16 bits, sinks, windows in every other layer, biases, bounded swiglu, yarn",
        defaults={
            "num_key_value_heads": 8, "head_dim": 64, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
            "sliding_window": 128, "attention_bias": True, "num_local_experts": 128, "num_experts_per_tok": 4,
            "swiglu_alpha": 1.702, "swiglu_limit": 7.0, "rope_theta": 150000.0,
            "rope_parameters": {
                "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
                "original_max_position_embeddings": 4096, "rope_theta": 150000.0,
            },
        },
        quantized=("mxfp4",),
        switches=switches, layer=WEIGHTS,
    ),
}  # fmt: skip
