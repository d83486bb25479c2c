"""Mixtures of experts that are otherwise built like Llama: Mixtral, Qwen, OLMoE, GLM-4, dots, MiniMax, Phi, Granite."""

from __future__ import annotations

from typing import Any

from jaxengine.layers.experts import Mixture
from jaxengine.layers.router import Router
from jaxengine.models import UnsupportedModel
from torch_compat.expert_recipes import EachExpert, FusedExperts
from torch_compat.families.family import LAYER, Config, Family, windows
from torch_compat.families.llama import mistral_switches
from torch_compat.recipes import Choice, QkNorms, Recipe, Same, Stack


def mixtral_switches(config: Config) -> dict[str, Any]:
    router = Router(config["num_local_experts"], config["num_experts_per_tok"], renormalise=True)
    return mistral_switches(config) | {"mixture": _mixture(config, router, config["intermediate_size"])}


def qwen_mixture(config: Config, **more: Any) -> Mixture:
    """Every so manieth layer has experts, but for those that are listed."""
    experts = config.get("num_experts") or config["num_local_experts"]
    step, dense = config["decoder_sparse_step"], config.get("mlp_only_layers") or ()
    layers = tuple(i not in dense and (i + 1) % step == 0 for i in range(config["num_hidden_layers"]))
    router = Router(experts, config["num_experts_per_tok"], renormalise=bool(config["norm_topk_prob"]))
    return _mixture(config, router, config["moe_intermediate_size"], layers=layers, **more)


def qwen2_switches(config: Config) -> dict[str, Any]:
    first, layers = config["max_window_layers"], range(config["num_hidden_layers"])
    windowed = config.get("layer_types") or [
        "sliding_attention" if i % 2 == 0 and i < first else "full_attention" for i in layers
    ]
    return {
        "qkv_bias": bool(config["qkv_bias"]), "o_bias": False,
        "windows": windows(config, windowed) if config.get("use_sliding_window") else (),
        "mixture": qwen_mixture(config, shared_size=config["shared_expert_intermediate_size"], shared_gate=True),
    }  # fmt: skip


def qwen3_switches(config: Config) -> dict[str, Any]:
    windowed = mistral_switches(config) if config.get("use_sliding_window") else {}
    return windowed | {"qk_norm": "head", "mixture": qwen_mixture(config)}


def aux_free_mixture(config: Config) -> Mixture:
    """That of DeepSeek-V3: scores by a sigmoid, balanced by a correction, in groups; the first layers are dense."""
    router = Router(
        config["n_routed_experts"], config["num_experts_per_tok"], "sigmoid",
        renormalise=bool(config["norm_topk_prob"]), scale=float(config["routed_scaling_factor"]),
        groups=config["n_group"], top_groups=config["topk_group"], correction=True, float32=True,
    )  # fmt: skip
    size = config["moe_intermediate_size"]
    layers = tuple(i >= config["first_k_dense_replace"] for i in range(config["num_hidden_layers"]))
    return _mixture(config, router, size, layers=layers, shared_size=(config.get("n_shared_experts") or 0) * size)


def glm4_switches(config: Config) -> dict[str, Any]:
    qk_norm = "head" if config.get("use_qk_norm") else ""
    return {"o_bias": False, "qk_norm": qk_norm, "mixture": aux_free_mixture(config)}


def dots_switches(config: Config) -> dict[str, Any]:
    for name in ("n_routed_experts", "num_experts_per_tok"):
        if config.get(name) is None:
            raise UnsupportedModel(f"config.json: lacks {name!r}.")
    layers, first = range(config["num_hidden_layers"]), config["max_window_layers"]
    types = config.get("layer_types") or ["sliding_attention" if i >= first else "full_attention" for i in layers]
    return {"qk_norm": "head", "windows": windows(config, types), "mixture": aux_free_mixture(config)}


def olmoe_switches(config: Config) -> dict[str, Any]:
    router = Router(config["num_experts"], config["num_experts_per_tok"], renormalise=bool(config["norm_topk_prob"]))
    return {"qk_norm": "all", "mixture": _mixture(config, router, config["intermediate_size"])}


def minimax_words(config: Config) -> dict[str, Any]:
    turning = config.get("rotary_dim")
    return {"partial_rotary_factor": turning / config["head_dim"]} if turning else {}


def minimax_switches(config: Config) -> dict[str, Any]:
    router = Router(
        config["num_local_experts"], config["num_experts_per_tok"], "sigmoid", renormalise=True, correction=True,
        float32=True,
    )  # fmt: skip
    return {"qk_norm": "all", "mixture": _mixture(config, router, config["intermediate_size"])}


def phi_words(config: Config) -> dict[str, Any]:
    """Its longrope states the factor on cosines and sines by names of its own."""
    for key in ("rope_scaling", "rope_parameters"):
        stated = config.get(key) or {}
        if "short_mscale" in stated:
            if stated["short_mscale"] != stated.get("long_mscale"):
                raise UnsupportedModel(f"config.json: {key} with a short_mscale other than its long_mscale.")
            return {key: dict(stated) | {"attention_factor": stated["short_mscale"]}}
    return {}


def phi_switches(config: Config) -> dict[str, Any]:
    router = Router(
        config["num_local_experts"], config["num_experts_per_tok"], "sparsemixer",
        near=float(config["router_jitter_noise"]),
    )  # fmt: skip
    return mistral_switches(config) | {
        "norm": "layer", "norm_bias": True, "head_bias": bool(config.get("lm_head_bias")),
        "mixture": _mixture(config, router, config["intermediate_size"]),
    }  # fmt: skip


def granite_switches(config: Config) -> dict[str, Any]:
    router = Router(config["num_local_experts"], config["num_experts_per_tok"], "top_softmax")
    shared = config.get("shared_intermediate_size") or 0
    return {
        "embed_scale": float(config["embedding_multiplier"]),
        "residual_scale": float(config["residual_multiplier"]),
        "attention_scale": float(config["attention_multiplier"]),
        "logits_scale": 1 / config["logits_scaling"],
        "mixture": _mixture(config, router, config["intermediate_size"], shared_size=shared),
    }


def _mixture(config: Config, router: Router, size: int, **more: Any) -> Mixture:
    return Mixture(router, size, config.get("hidden_act", "silu"), **more)


def experts_of(
    block: str, gate: str = "gate_proj", up: str = "up_proj", down: str = "down_proj"
) -> dict[str, Recipe | Choice]:
    """A router and a tensor an expert and product, below `block`."""
    each = f"{block}.experts.{{x}}"
    return {
        "router": Same(f"{block}.gate.weight"),
        "experts_gate_up": EachExpert(f"{each}.{gate}.weight", f"{each}.{up}.weight"),
        "experts_down": EachExpert(f"{each}.{down}.weight"),
    }


def shared_expert(block: str) -> dict[str, Recipe | Choice]:
    """What every token goes through, as a dense layer below `block`."""
    return {
        "shared_gate_up": Stack(f"{block}.gate_proj.weight", f"{block}.up_proj.weight"),
        "shared_down": Same(f"{block}.down_proj.weight"),
    }


MIXTRAL: dict[str, Recipe | Choice] = {**LAYER, **experts_of("block_sparse_moe", "w1", "w3", "w2")}
QWEN: dict[str, Recipe | Choice] = {**LAYER, **experts_of("mlp")}
QWEN2 = QWEN | shared_expert("mlp.shared_expert") | {"shared_gate": Same("mlp.shared_expert_gate.weight")}
AUX_FREE = QWEN | shared_expert("mlp.shared_experts") | {"router_correction": Same("mlp.gate.e_score_correction_bias")}
QK_NORMS = {"qk_norm": QkNorms("self_attn.q_norm.weight", "self_attn.k_norm.weight", flat=True)}  # over all heads
MINIMAX = MIXTRAL | QK_NORMS | {"router_correction": Same("block_sparse_moe.e_score_correction_bias")}
GRANITE: dict[str, Recipe | Choice] = {
    **LAYER,
    "router": Same("block_sparse_moe.router.layer.weight"),
    "experts_gate_up": FusedExperts("block_sparse_moe.input_linear.weight", "halves"),
    "experts_down": FusedExperts("block_sparse_moe.output_linear.weight"),
    "shared_gate_up": Same("shared_mlp.input_linear.weight", outputs=2),
    "shared_down": Same("shared_mlp.output_linear.weight"),
}

QWEN_DEFAULTS = {
    "max_position_embeddings": 32768, "sliding_window": 4096, "max_window_layers": 28, "decoder_sparse_step": 1,
    "norm_topk_prob": False,
}  # fmt: skip
GRANITE_DEFAULTS = {
    "max_position_embeddings": 2048, "embedding_multiplier": 1.0, "residual_multiplier": 1.0,
    "attention_multiplier": 1.0, "logits_scaling": 1.0, "num_local_experts": 8, "num_experts_per_tok": 2,
}  # fmt: skip
PHI = Family(
    examples=("microsoft/Phi-3.5-MoE-instruct",),
    note="sparsemixer router, layer norms, biases, longrope",
    defaults={
        "num_key_value_heads": 8, "max_position_embeddings": 131072, "rope_theta": 1000000.0, "rms_norm_eps": 1e-5,
        "num_local_experts": 16, "num_experts_per_tok": 2, "router_jitter_noise": 0.01,
    },
    words=phi_words, switches=phi_switches, layer=MIXTRAL,
)  # fmt: skip

FAMILIES = {
    "MixtralForCausalLM": Family(
        examples=("mistralai/Mixtral-8x7B-Instruct-v0.1", "mistralai/Mixtral-8x22B-Instruct-v0.1"),
        note="window, router's weights made to sum to 1",
        defaults={
            "num_key_value_heads": 8, "max_position_embeddings": 131072, "rope_theta": 1000000.0, "rms_norm_eps": 1e-5,
            "num_local_experts": 8, "num_experts_per_tok": 2,
        },
        switches=mixtral_switches, layer=MIXTRAL,
    ),
    "Qwen2MoeForCausalLM": Family(
        examples=("Qwen/Qwen1.5-MoE-A2.7B-Chat", "Qwen/Qwen2-57B-A14B-Instruct"),
        note="gated shared expert, dense layers between, window",
        defaults=QWEN_DEFAULTS | {
            "num_key_value_heads": 16, "num_experts": 60, "num_experts_per_tok": 4, "moe_intermediate_size": 1408,
            "shared_expert_intermediate_size": 5632, "qkv_bias": True,
        },
        switches=qwen2_switches, layer=QWEN2,
    ),
    "Qwen3MoeForCausalLM": Family(
        examples=("Qwen/Qwen3-30B-A3B", "Qwen/Qwen3-235B-A22B-Instruct-2507", "Qwen/Qwen3-Coder-30B-A3B-Instruct"),
        note="norms of heads, dense layers between, router's weights made to sum to 1",
        defaults=QWEN_DEFAULTS | {
            "num_key_value_heads": 4, "num_local_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768,
        },
        switches=qwen3_switches, layer=QWEN,
    ),
    "OlmoeForCausalLM": Family(
        examples=("allenai/OLMoE-1B-7B-0125-Instruct",),
        note="norms of queries and keys over all heads",
        defaults={
            "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "num_experts": 64, "num_experts_per_tok": 8,
            "norm_topk_prob": False,
        },
        only={"clip_qkv": (None,)}, switches=olmoe_switches, layer=QWEN | QK_NORMS,
    ),
    "Glm4MoeForCausalLM": Family(
        examples=("zai-org/GLM-4.5-Air", "zai-org/GLM-4.5", "zai-org/GLM-4.6"),
        note="sigmoid router with correction, shared experts, partial rotation, norms of heads",
        defaults={
            "num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
            "partial_rotary_factor": 0.5, "n_routed_experts": 128, "num_experts_per_tok": 8,
            "moe_intermediate_size": 1408, "n_shared_experts": 1, "first_k_dense_replace": 1, "norm_topk_prob": True,
            "routed_scaling_factor": 1.0, "n_group": 1, "topk_group": 1,
        },
        switches=glm4_switches, layer=AUX_FREE,
    ),
    "Dots1ForCausalLM": Family(
        examples=("rednote-hilab/dots.llm1.inst",),
        note="sigmoid router with correction, shared experts, dense first layers, norms of heads, windows",
        defaults={
            "num_key_value_heads": 32, "max_position_embeddings": 2048, "sliding_window": 4096,
            "max_window_layers": 62, "n_shared_experts": None, "first_k_dense_replace": 0, "norm_topk_prob": False,
            "routed_scaling_factor": 1.0, "n_group": 1, "topk_group": 1,
        },
        switches=dots_switches, layer=AUX_FREE,
    ),
    "MiniMaxM2ForCausalLM": Family(
        examples=("MiniMaxAI/MiniMax-M2",),
        note="sigmoid router with correction, norms over all heads; published in eight bits, which are not read yet",
        defaults={
            "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 196608, "rope_theta": 5000000.0,
            "num_local_experts": 256, "num_experts_per_tok": 8,
        },
        words=minimax_words, switches=minimax_switches, layer=MINIMAX,
    ),
    "PhimoeForCausalLM": PHI,
    "PhiMoEForCausalLM": PHI,  # the name in the released config.json
    "GraniteMoeForCausalLM": Family(
        examples=("ibm-granite/granite-3.1-3b-a800m-instruct",),
        note="as Granite, with experts",
        defaults=GRANITE_DEFAULTS, switches=granite_switches, layer=GRANITE,
    ),
    "GraniteMoeSharedForCausalLM": Family(
        examples=("ibm-research/moe-7b-1b-active-shared-experts",),
        note="as Granite, with experts and shared ones",
        defaults=GRANITE_DEFAULTS, switches=granite_switches, layer=GRANITE,
    ),
}  # fmt: skip
