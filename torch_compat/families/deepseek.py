"""Models with multi-head latent attention: DeepSeek-V2 and V3, Kimi-K2, GLM-4.7-Flash, MiniCPM3, Youtu."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from jaxengine.layers.experts import Mixture
from jaxengine.layers.latent_attention import LatentSizes
from jaxengine.layers.router import Router
from jaxengine.models import UnsupportedModel
from torch_compat.families.family import LAYER, Config, Family
from torch_compat.families.mixtures import AUX_FREE, aux_free_mixture
from torch_compat.hf_rope import read_rope
from torch_compat.latent_recipes import FromLatents, LatentQueries, Latents, QueriesLatents
from torch_compat.recipes import Choice, Recipe, Same


def words(config: Config) -> dict[str, Any]:
    """What turns is the size of a head to the rope, and every head has keys of its own."""
    return {"head_dim": config["qk_rope_head_dim"], "num_key_value_heads": config["num_attention_heads"]}


def latent_switches(config: Config) -> dict[str, Any]:
    sizes = LatentSizes(
        rank=config["kv_lora_rank"], nope_dim=config["qk_nope_head_dim"], rope_dim=config["qk_rope_head_dim"],
        value_dim=config["v_head_dim"], q_rank=config.get("q_lora_rank"),
    )  # fmt: skip
    return {
        "latent": sizes,
        "rope": read_rope(config, sizes.rope_dim, interleaved=bool(config.get("rope_interleave", True))),
        "attention_scale": _temperature(config) ** 2 * (sizes.nope_dim + sizes.rope_dim) ** -0.5,
    }


def _temperature(config: Config) -> float:
    """What yarn multiplies queries and keys by, all of their features (arXiv:2309.00071, §3.4)."""
    stated = config.get("rope_scaling") or config.get("rope_parameters") or {}
    scale, factor = stated.get("mscale_all_dim"), stated.get("factor") or 1.0
    kind = stated.get("rope_type") or stated.get("type") or "default"
    return 0.1 * scale * math.log(factor) + 1.0 if scale and factor > 1 and kind != "default" else 1.0


def v2_switches(config: Config) -> dict[str, Any]:
    grouped = config["topk_method"] == "group_limited_greedy"
    router = Router(
        config["n_routed_experts"], config["num_experts_per_tok"], scale=float(config["routed_scaling_factor"]),
        groups=config["n_group"] if grouped else 1, top_groups=config["topk_group"] if grouped else 1, float32=True,
    )  # fmt: skip
    size = config["moe_intermediate_size"]
    mixture = Mixture(
        router, size, config.get("hidden_act", "silu"), shared_size=(config.get("n_shared_experts") or 0) * size,
        layers=tuple(i >= config["first_k_dense_replace"] for i in range(config["num_hidden_layers"])),
    )  # fmt: skip
    return latent_switches(config) | {"mixture": mixture}


def v3_switches(config: Config) -> dict[str, Any]:
    return latent_switches(config) | {"mixture": aux_free_mixture(config)}


def glm_switches(config: Config) -> dict[str, Any]:
    """Its layers' kinds are listed, in newer configs."""
    mixture, kinds = aux_free_mixture(config), config.get("mlp_layer_types")
    if kinds:
        mixture = dataclasses.replace(mixture, layers=tuple(kind == "sparse" for kind in kinds))
    if len(mixture.layers) != config["num_hidden_layers"]:
        raise UnsupportedModel(f"config.json: mlp_layer_types has {len(mixture.layers)} entries; give one a layer.")
    return latent_switches(config) | {"mixture": mixture}


def minicpm_words(config: Config) -> dict[str, Any]:
    dim = config.get("v_head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return words(config) | {"v_head_dim": dim, "rope_interleave": False}


def minicpm_switches(config: Config) -> dict[str, Any]:
    """Scaled by depth and width; what is given as null does not scale."""
    layers, hidden = config["num_hidden_layers"], config["hidden_size"]
    return latent_switches(config) | {
        "embed_scale": float(config["scale_emb"]),
        "residual_scale": (config["scale_depth"] or math.sqrt(layers)) / math.sqrt(layers),
        "logits_scale": (config["dim_model_base"] or hidden) / hidden,
    }


LATENT: dict[str, Recipe | Choice] = {
    "latents": Latents("self_attn.q_a_proj.weight", "self_attn.kv_a_proj_with_mqa.weight"),
    "latents_bias": Latents("self_attn.q_a_proj.bias", "self_attn.kv_a_proj_with_mqa.bias"),
    "q_norm": Same("self_attn.q_a_layernorm.weight"),
    "q": LatentQueries("self_attn.q_b_proj.weight"),
    "q_latents": QueriesLatents("self_attn.q_proj.weight", "self_attn.kv_a_proj_with_mqa.weight"),
    "q_latents_bias": QueriesLatents(None, "self_attn.kv_a_proj_with_mqa.bias"),
    "latent_norm": Same("self_attn.kv_a_layernorm.weight"),
    "k_up": FromLatents("self_attn.kv_b_proj.weight", "keys"),
    "v_up": FromLatents("self_attn.kv_b_proj.weight", "values"),
}
DEFAULTS = {
    "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128,
}  # fmt: skip
ONLY = {"moe_layer_freq": (1,)}

FAMILIES = {
    "DeepseekV2ForCausalLM": Family(
        examples=("deepseek-ai/DeepSeek-V2-Lite-Chat", "deepseek-ai/DeepSeek-V2", "deepseek-ai/DeepSeek-V2.5"),
        note="latents with and without narrow queries, groups of experts, shared ones, dense first layers, yarn",
        defaults=DEFAULTS | {
            "max_position_embeddings": 2048, "first_k_dense_replace": 0, "n_routed_experts": 64, "n_shared_experts": 2,
            "routed_scaling_factor": 1.0, "topk_method": "greedy", "moe_intermediate_size": 1407,
        },
        only=ONLY | {
            "topk_method": ("greedy", "group_limited_greedy"), "scoring_func": ("softmax",),
            "norm_topk_prob": (False, None),
        },
        words=words, switches=v2_switches, layer=AUX_FREE | LATENT,
    ),
    "DeepseekV3ForCausalLM": Family(
        examples=("deepseek-ai/DeepSeek-V3", "deepseek-ai/DeepSeek-R1", "moonshotai/Kimi-K2-Instruct"),
        note="the weights as published are in blocks of eight bits, which are not read yet",
        defaults=DEFAULTS | {
            "max_position_embeddings": 4096, "first_k_dense_replace": 3, "n_routed_experts": 256, "n_shared_experts": 1,
            "routed_scaling_factor": 2.5, "moe_intermediate_size": 2048, "num_experts_per_tok": 8, "n_group": 8,
            "topk_group": 4, "norm_topk_prob": True,
        },
        only=ONLY | {"topk_method": ("noaux_tc",), "scoring_func": ("sigmoid",)},
        words=words, switches=v3_switches, layer=AUX_FREE | LATENT,
    ),
    "Glm4MoeLiteForCausalLM": Family(
        examples=("zai-org/GLM-4.7-Flash",),
        note="as DeepSeek-V3",
        defaults=DEFAULTS | {
            "q_lora_rank": 768, "qk_nope_head_dim": 192, "v_head_dim": 256, "max_position_embeddings": 202752,
            "rms_norm_eps": 1e-5, "first_k_dense_replace": 1, "n_routed_experts": 64, "n_shared_experts": 1,
            "routed_scaling_factor": 1.8, "moe_intermediate_size": 1536, "num_experts_per_tok": 4, "n_group": 1,
            "topk_group": 1, "norm_topk_prob": True,
        },
        words=words, switches=glm_switches, layer=AUX_FREE | LATENT,
    ),
    "MiniCPM3ForCausalLM": Family(
        examples=("openbmb/MiniCPM3-4B",),
        note="latents, scaled embeddings, residuals and logits",
        defaults={
            "kv_lora_rank": 256, "q_lora_rank": 768, "qk_rope_head_dim": 32, "qk_nope_head_dim": 64,
            "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "scale_emb": 12,
            "scale_depth": 1.4, "dim_model_base": 256,
        },
        words=minicpm_words, switches=minicpm_switches, layer=LAYER | LATENT,
    ),
    "YoutuForCausalLM": Family(
        examples=("tencent/Youtu-LLM-2B",),
        note="latents, tied embeddings",
        defaults=DEFAULTS | {"max_position_embeddings": 131072, "tie_word_embeddings": True},
        words=words, switches=latent_switches, layer=LAYER | LATENT,
    ),
}  # fmt: skip
