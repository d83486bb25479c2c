"""GPT-2 and its heirs: GPT-BigCode, GPT-J, GPT-NeoX and OPT. Layer norms and biases, plain feed-forwards."""

from __future__ import annotations

from typing import Any, Literal

from jaxengine.layers.rope import Rope
from torch_compat.families.family import Config, Family, head_dim
from torch_compat.hf_rope import read_rope
from torch_compat.recipes import Heads, Recipe, Same, Table


def _gpt2_words(config: Config) -> dict[str, Any]:
    return {
        "hidden_size": config.get("n_embd"),
        "num_hidden_layers": config.get("n_layer"),
        "num_attention_heads": config.get("n_head"),
        "intermediate_size": config.get("n_inner") or 4 * (config.get("n_embd") or 0),
        "max_position_embeddings": config["n_positions"],
        "hidden_act": config["activation_function"],
        "rms_norm_eps": config["layer_norm_epsilon"],
        "attention_bias": True,
        "mlp_bias": True,
    }


def _gpt2_switches(config: Config) -> dict[str, Any]:
    return {
        "norm": "layer",
        "norm_bias": True,
        "gated": False,
        "rope": Rope(head_dim(config), kind="none"),
        "position_table": config["max_position_embeddings"],
        "attention_scale": None if config["scale_attn_weights"] else 1.0,
    }


def _bigcode_switches(config: Config) -> dict[str, Any]:
    return _gpt2_switches(config) | {"num_kv_heads": 1 if config["multi_query"] else config["num_attention_heads"]}


def _gptj_switches(config: Config) -> dict[str, Any]:
    return {
        "norm": "layer",
        "norm_bias": True,
        "norm_places": "shared",
        "gated": False,
        "rope": Rope(head_dim(config), rotary_dim=config["rotary_dim"] or 0, interleaved=True),
        "qkv_bias": False,
        "o_bias": False,
        "head_bias": True,
    }


def _neox_words(config: Config) -> dict[str, Any]:
    return {
        "rms_norm_eps": config["layer_norm_eps"],
        "mlp_bias": True,
        "rope_theta": config["rotary_emb_base"],
        "partial_rotary_factor": config["rotary_pct"],
    }


def _neox_switches(config: Config) -> dict[str, Any]:
    return {
        "norm": "layer",
        "norm_bias": True,
        "norm_places": "parallel" if config["use_parallel_residual"] else "pre",
        "gated": False,
        "rope": read_rope(config, head_dim(config)),
    }


def _opt_words(config: Config) -> dict[str, Any]:
    return {
        "intermediate_size": config["ffn_dim"],
        "hidden_act": config["activation_function"],
        "attention_bias": config["enable_bias"],
        "mlp_bias": config["enable_bias"],
        "rms_norm_eps": 1e-5,
    }


def _opt_switches(config: Config) -> dict[str, Any]:
    width, affine = config["word_embed_proj_dim"], config["layer_norm_elementwise_affine"]
    return {
        "embed_size": None if width in (None, config["hidden_size"]) else width,
        "position_table": config["max_position_embeddings"] + 2,
        "position_offset": 2,
        "norm": "layer",
        "norm_weight": affine,
        "norm_bias": affine,
        "norm_places": "pre" if config["do_layer_norm_before"] else "after",
        "final_norm": config["do_layer_norm_before"] and not config["_remove_final_layer_norm"],
        "gated": False,
        "rope": Rope(head_dim(config), kind="none"),
    }


def _linear(ours: str, theirs: str, transposed: bool = False) -> dict[str, Recipe]:
    return {ours: Same(f"{theirs}.weight", transposed=transposed), f"{ours}_bias": Same(f"{theirs}.bias")}


def _fused(theirs: str, fused: Literal["parts", "heads"], transposed: bool = False) -> dict[str, Recipe]:
    return {
        "qkv": Heads((f"{theirs}.weight",), fused, transposed),
        "qkv_bias": Heads((f"{theirs}.bias",), fused),
    }


_outer: dict[str, Recipe] = {
    "embed": Table("transformer.wte.weight"),
    "positions": Same("transformer.wpe.weight"),
    **_linear("final_norm", "transformer.ln_f"),
    "head": Table("lm_head.weight"),
    "head_bias": Table("lm_head.bias"),
}
_norms = _linear("attention_norm", "ln_1") | _linear("mlp_norm", "ln_2")
_gpt2_defaults = {
    "n_positions": 1024,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "tie_word_embeddings": True,
}
_unused = (".attn.bias", ".attn.masked_bias")

FAMILIES = {
    "GPT2LMHeadModel": Family(
        examples=("openai-community/gpt2", "openai-community/gpt2-xl"),
        note="learned positions, transposed weights",
        defaults=_gpt2_defaults,
        only={
            "scale_attn_by_inverse_layer_idx": (False,),
            "reorder_and_upcast_attn": (False,),
            "add_cross_attention": (False,),
        },
        words=_gpt2_words,
        switches=_gpt2_switches,
        outer=_outer,
        layer=_norms
        | _fused("attn.c_attn", "parts", transposed=True)
        | _linear("o", "attn.c_proj", transposed=True)
        | _linear("up", "mlp.c_fc", transposed=True)
        | _linear("down", "mlp.c_proj", transposed=True),
        layer_prefix="transformer.h.{i}.",
        prefix="transformer.",
        unused=_unused,
    ),
    "GPTBigCodeForCausalLM": Family(
        examples=("bigcode/starcoder", "bigcode/gpt_bigcode-santacoder"),
        note="one kv head, or as many as heads",
        defaults=_gpt2_defaults | {"activation_function": "gelu_pytorch_tanh", "multi_query": True},
        only={"add_cross_attention": (False,)},
        words=_gpt2_words,
        switches=_bigcode_switches,
        outer=_outer,
        layer=_norms
        | _fused("attn.c_attn", "heads")
        | _linear("o", "attn.c_proj")
        | _linear("up", "mlp.c_fc")
        | _linear("down", "mlp.c_proj"),
        layer_prefix="transformer.h.{i}.",
        prefix="transformer.",
        unused=_unused,
    ),
    "GPTJForCausalLM": Family(
        examples=("EleutherAI/gpt-j-6b",),
        note="blocks beside each other behind one layer norm, interleaved partial rotation",
        defaults=_gpt2_defaults | {"n_positions": 2048, "rotary_dim": 64, "tie_word_embeddings": False},
        words=_gpt2_words,
        switches=_gptj_switches,
        outer=_outer,
        layer=_norms
        | {
            "qkv": Heads(("attn.q_proj.weight", "attn.k_proj.weight", "attn.v_proj.weight")),
            "o": Same("attn.out_proj.weight"),
        }
        | _linear("up", "mlp.fc_in")
        | _linear("down", "mlp.fc_out"),
        layer_prefix="transformer.h.{i}.",
        prefix="transformer.",
        unused=_unused,
    ),
    "GPTNeoXForCausalLM": Family(
        examples=("EleutherAI/pythia-1.4b", "EleutherAI/gpt-neox-20b"),
        note="blocks beside each other or not, fused heads, partial rotation",
        defaults={
            "hidden_act": "gelu",
            "max_position_embeddings": 2048,
            "layer_norm_eps": 1e-5,
            "use_parallel_residual": True,
            "attention_bias": True,
            "rotary_emb_base": 10000.0,
            "rotary_pct": 0.25,
        },
        words=_neox_words,
        switches=_neox_switches,
        outer={
            "embed": Table("gpt_neox.embed_in.weight"),
            **_linear("final_norm", "gpt_neox.final_layer_norm"),
            "head": Table("embed_out.weight"),
        },
        layer=_linear("attention_norm", "input_layernorm")
        | _fused("attention.query_key_value", "heads")
        | _linear("o", "attention.dense")
        | _linear("mlp_norm", "post_attention_layernorm")
        | _linear("up", "mlp.dense_h_to_4h")
        | _linear("down", "mlp.dense_4h_to_h"),
        layer_prefix="gpt_neox.layers.{i}.",
        prefix="gpt_neox.",
        unused=(".attention.bias", ".attention.masked_bias", "rotary_emb.inv_freq"),
    ),
    "OPTForCausalLM": Family(
        examples=("facebook/opt-125m", "facebook/opt-350m", "facebook/opt-66b"),
        note="learned positions, norms before or behind, narrow embeddings",
        defaults={
            "ffn_dim": 3072,
            "max_position_embeddings": 2048,
            "activation_function": "relu",
            "do_layer_norm_before": True,
            "_remove_final_layer_norm": False,
            "word_embed_proj_dim": None,
            "enable_bias": True,
            "layer_norm_elementwise_affine": True,
            "tie_word_embeddings": True,
        },
        words=_opt_words,
        switches=_opt_switches,
        outer={
            "embed": Table("model.decoder.embed_tokens.weight"),
            "embed_in": Same("model.decoder.project_in.weight"),
            "positions": Same("model.decoder.embed_positions.weight"),
            **_linear("final_norm", "model.decoder.final_layer_norm"),
            "embed_out": Same("model.decoder.project_out.weight"),
            "head": Table("lm_head.weight"),
        },
        layer=_linear("attention_norm", "self_attn_layer_norm")
        | {
            f"qkv{ours}": Heads(tuple(f"self_attn.{part}_proj.{theirs}" for part in "qkv"))
            for ours, theirs in (("", "weight"), ("_bias", "bias"))
        }
        | _linear("o", "self_attn.out_proj")
        | _linear("mlp_norm", "final_layer_norm")
        | _linear("up", "fc1")
        | _linear("down", "fc2"),
        layer_prefix="model.decoder.layers.{i}.",
    ),
}
