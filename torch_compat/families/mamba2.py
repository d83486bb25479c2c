"""Decoders with Mamba 2 layers among those of attention: Bamba, Granite 4, Nemotron-H."""

from __future__ import annotations

from typing import Any

from jaxengine.layers.experts import Mixture
from jaxengine.layers.mamba2 import MambaSizes
from jaxengine.layers.rope import Rope
from jaxengine.layers.router import Router
from jaxengine.models import UnsupportedModel
from torch_compat.expert_recipes import EachExpert
from torch_compat.families.family import LAYER, OUTER, Config, Family, mixers
from torch_compat.families.mixtures import GRANITE
from torch_compat.pieces import mamba_conv, mamba_input
from torch_compat.recipes import Choice, Heads, Recipe, Same, Stack, Table


def limits(config: Config) -> tuple[float, float]:
    """time_step_limit; transformers 5 writes an infinite one as an object."""
    low, high = (
        float(limit["__float__"] if isinstance(limit, dict) else limit)
        for limit in config.get("time_step_limit") or (0.0, "inf")
    )
    return low, high


def mamba_layer(prefix: str) -> dict[str, Recipe]:
    return {
        "mix_in": mamba_input(f"{prefix}.in_proj.weight"),
        "mix_in_bias": mamba_input(f"{prefix}.in_proj.bias"),
        "conv": mamba_conv(f"{prefix}.conv1d.weight"),
        "conv_bias": mamba_conv(f"{prefix}.conv1d.bias", bias=True),
        "dt_bias": Same(f"{prefix}.dt_bias", outputs=2),
        "a_log": Same(f"{prefix}.A_log", outputs=2),
        "d": Same(f"{prefix}.D", outputs=2),
        "inner_norm": Same(f"{prefix}.norm.weight", outputs=2),
        "mix_out": Same(f"{prefix}.out_proj.weight"),
        "mix_out_bias": Same(f"{prefix}.out_proj.bias"),
    }


def mamba_sizes(config: Config) -> MambaSizes:
    """As Bamba and Granite name them."""
    heads, dim = config["mamba_n_heads"], config.get("mamba_d_head", "auto")
    return MambaSizes(
        heads=heads,
        head_dim=config["mamba_expand"] * config["hidden_size"] // heads if dim == "auto" else dim,
        groups=config["mamba_n_groups"],
        state_size=config["mamba_d_state"],
        conv_width=config["mamba_d_conv"],
        conv_bias=config["mamba_conv_bias"],
        bias=config["mamba_proj_bias"],
        dt_limit=limits(config),
    )


MAMBA_DEFAULTS = {
    "mamba_n_heads": 128, "mamba_n_groups": 1, "mamba_d_state": 256, "mamba_d_conv": 4, "mamba_expand": 2,
    "mamba_conv_bias": True, "mamba_proj_bias": False,
}  # fmt: skip
BAMBA_DEFAULTS = {
    "num_key_value_heads": 8,
    "max_position_embeddings": 262144,
    "rms_norm_eps": 1e-5,
    "partial_rotary_factor": 0.5,
}


def bamba_switches(config: Config) -> dict[str, Any]:
    attends = config.get("attn_layer_indices") or ()
    types = ["attention" if i in attends else "mamba" for i in range(config["num_hidden_layers"])]
    return {"mixers": mixers(config.get("layer_types") or types), "recurrent": mamba_sizes(config)}


BAMBA_LAYER: dict[str, Recipe] = LAYER | mamba_layer("mamba") | {
    "mlp_norm": Same("pre_ff_layernorm.weight"),
    "gate_up": Stack("feed_forward.gate_proj.weight", "feed_forward.up_proj.weight"),
    "gate_up_bias": Stack("feed_forward.gate_proj.bias", "feed_forward.up_proj.bias"),
    "down": Same("feed_forward.down_proj.weight"),
    "down_bias": Same("feed_forward.down_proj.bias"),
}  # fmt: skip


def granite_words(config: Config) -> dict[str, Any]:
    """Without routed experts the shared one is an ordinary feed-forward."""
    return {} if config["num_local_experts"] else {"intermediate_size": config["shared_intermediate_size"]}


def granite_switches(config: Config) -> dict[str, Any]:
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    turns = config.get("position_embedding_type") == "rope"
    switches: dict[str, Any] = {
        "mixers": mixers(config.get("layer_types") or ["mamba"] * config["num_hidden_layers"]),
        "recurrent": mamba_sizes(config),
        "embed_scale": config["embedding_multiplier"],
        "residual_scale": config["residual_multiplier"],
        "attention_scale": config["attention_multiplier"],
        "logits_scale": 1 / config["logits_scaling"],
    }
    if not turns:
        switches["rope"] = Rope(head_dim, kind="none")
    if config["num_local_experts"]:
        router = Router(config["num_local_experts"], config["num_experts_per_tok"], "top_softmax")
        shared = config["shared_intermediate_size"]
        switches["mixture"] = Mixture(router, config["intermediate_size"], shared_size=shared)
    return switches


GRANITE_LAYER: dict[str, Recipe | Choice] = GRANITE | mamba_layer("mamba") | {
    "gate_up": Same("shared_mlp.input_linear.weight", outputs=2),
    "down": Same("shared_mlp.output_linear.weight"),
}  # fmt: skip


NEMOTRON_LETTERS = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}


def nemotron_words(config: Config) -> dict[str, Any]:
    pattern = [NEMOTRON_LETTERS.get(letter, letter) for letter in config.get("hybrid_override_pattern") or ""]
    types = config.get("layers_block_type") or config.get("layer_types") or pattern
    return {
        "layer_types": types,
        "num_hidden_layers": len(types),
        "hidden_act": config["mlp_hidden_act"],
        "rms_norm_eps": config.get("layer_norm_epsilon", config.get("rms_norm_eps", 1e-5)),
        "head_dim": config.get("head_dim") or config.get("attention_head_dim"),
    }


def nemotron_mixture(config: Config) -> Mixture:
    """Experts without a gate, whose activation is the square of ReLU: relu(up) · up, so that up is its own gate."""
    if config["mlp_hidden_act"] != "relu2" or config.get("mlp_bias"):
        raise UnsupportedModel("NemotronHForCausalLM: experts are served with mlp_hidden_act='relu2' and no mlp_bias.")
    router = Router(
        config["n_routed_experts"], config["num_experts_per_tok"], "sigmoid",
        renormalise=bool(config["norm_topk_prob"]), scale=float(config["routed_scaling_factor"]),
        groups=config["n_group"], top_groups=config["topk_group"], correction=True, float32=True,
    )  # fmt: skip
    return Mixture(
        router, config["moe_intermediate_size"], "relu", shared_size=config["moe_shared_expert_intermediate_size"],
        layers=tuple(kind == "moe" for kind in config["layer_types"]),
    )  # fmt: skip


def nemotron_switches(config: Config) -> dict[str, Any]:
    types = config["layer_types"]
    return {
        "mixers": mixers(types),
        "feed_forwards": tuple(kind in ("mlp", "moe") for kind in types),
        "mixture": nemotron_mixture(config) if "moe" in types else None,
        "gated": False,
        "qkv_bias": False,  # whatever attention_bias says
        "o_bias": False,
        "rope": Rope(config["head_dim"], kind="none"),
        "recurrent": MambaSizes(
            heads=config["mamba_num_heads"],
            head_dim=config["mamba_head_dim"],
            groups=config["n_groups"],
            state_size=config["ssm_state_size"],
            conv_width=config["conv_kernel"],
            conv_bias=config["use_conv_bias"],
            bias=config["use_bias"],
            dt_limit=limits(config),  # transformers takes time_step_min for the lower one, in prompts alone
        ),
    }


NEMOTRON_DEFAULTS = {
    "num_key_value_heads": 8, "max_position_embeddings": 4096, "mlp_hidden_act": "relu2", "n_groups": 8,
    "mamba_num_heads": 128, "mamba_head_dim": 64, "ssm_state_size": 128, "conv_kernel": 4, "use_conv_bias": True,
    "use_bias": False, "n_group": 1, "topk_group": 1, "norm_topk_prob": True, "routed_scaling_factor": 1.0,
    "num_experts_per_tok": 2,
}  # fmt: skip
NEMOTRON_LAYER: dict[str, Recipe | Choice] = {
    **mamba_layer("mixer"),
    "attention_norm": Same("norm.weight"),  # a layer is one block with one norm
    "mlp_norm": Same("norm.weight"),
    "qkv": Heads(("mixer.q_proj.weight", "mixer.k_proj.weight", "mixer.v_proj.weight")),
    "o": Same("mixer.o_proj.weight"),
    "up": Same("mixer.up_proj.weight"),
    "up_bias": Same("mixer.up_proj.bias"),
    "down": Same("mixer.down_proj.weight"),
    "down_bias": Same("mixer.down_proj.bias"),
    "router": Same("mixer.gate.weight"),
    "router_correction": Same("mixer.gate.e_score_correction_bias"),
    "experts_gate_up": EachExpert(*["mixer.experts.{x}.up_proj.weight"] * 2),
    "experts_down": EachExpert("mixer.experts.{x}.down_proj.weight"),
    "shared_gate_up": Stack(*["mixer.shared_experts.up_proj.weight"] * 2),
    "shared_down": Same("mixer.shared_experts.down_proj.weight"),
}
NEMOTRON_OUTER: dict[str, Recipe] = {
    "embed": Table("backbone.embeddings.weight"),
    "final_norm": Same("backbone.norm_f.weight"),
    "head": Table("lm_head.weight"),
}

FAMILIES = {
    "BambaForCausalLM": Family(
        examples=("ibm-ai-platform/Bamba-9B-v2",),
        note="Mamba-2 layers between attention, partial rotation",
        defaults=MAMBA_DEFAULTS | BAMBA_DEFAULTS,
        switches=bamba_switches,
        outer=OUTER | {"final_norm": Same("model.final_layernorm.weight")},
        layer=BAMBA_LAYER,
    ),
    "GraniteMoeHybridForCausalLM": Family(
        examples=("ibm-granite/granite-4.0-h-tiny", "ibm-granite/granite-4.0-h-small"),
        note="Mamba-2 layers between attention with and without rotation, experts and shared ones",
        defaults=MAMBA_DEFAULTS
        | {
            "max_position_embeddings": 2048, "embedding_multiplier": 1.0, "residual_multiplier": 1.0,
            "attention_multiplier": 1.0, "logits_scaling": 1.0, "shared_intermediate_size": 1024,
            "num_local_experts": 8, "num_experts_per_tok": 2,
        },
        words=granite_words,
        switches=granite_switches,
        layer=GRANITE_LAYER,
    ),
    "NemotronHForCausalLM": Family(
        examples=("nvidia/Nemotron-H-8B-Base-8K", "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"),
        note="layers of one block: Mamba-2, attention without rotation, squared relu, or experts of it",
        defaults=NEMOTRON_DEFAULTS,
        only={"moe_latent_size": (None,)},
        words=nemotron_words,
        switches=nemotron_switches,
        outer=NEMOTRON_OUTER,
        layer=NEMOTRON_LAYER,
        layer_prefix="backbone.layers.{i}.",
        prefix="backbone.",
    ),
}  # fmt: skip
