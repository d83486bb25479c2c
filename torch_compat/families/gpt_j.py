"""GPT-J and others of its time with rotation: CodeGen, GPT-NeoX and Falcon. Mostly with blocks beside each other."""

from __future__ import annotations

from typing import Any

from jaxengine.layers.rope import Rope
from torch_compat.families.family import Config, Family, head_dim
from torch_compat.families.gpt import GPT2_DEFAULTS, NORMS, OUTER, UNUSED, fused, gpt2_words, linear
from torch_compat.hf_rope import read_rope
from torch_compat.recipes import Either, Heads, Recipe, Same, Table


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


def _falcon_words(config: Config) -> dict[str, Any]:
    heads = config.get("num_attention_heads")
    one = config["multi_query"] and not config["new_decoder_architecture"]
    return {
        "num_key_value_heads": 1 if one else config["num_kv_heads"] or heads,
        "intermediate_size": config["ffn_hidden_size"] or 4 * (config.get("hidden_size") or 0),
        "hidden_act": config["activation"],
        "rms_norm_eps": config["layer_norm_epsilon"],
        "attention_bias": config["bias"],
        "mlp_bias": config["bias"],
    }


def _falcon_switches(config: Config) -> dict[str, Any]:
    new, norms = config["new_decoder_architecture"], config["num_ln_in_parallel_attn"]
    if new and norms in (None, 2):
        places = "parallel"
    else:
        places = "shared" if new or config["parallel_attn"] else "pre"
    return {"norm": "layer", "norm_bias": True, "norm_places": places, "gated": False}


_gptj: dict[str, Recipe] = {
    "qkv": Heads(("attn.q_proj.weight", "attn.k_proj.weight", "attn.v_proj.weight")),
    "o": Same("attn.out_proj.weight"),
    **NORMS,
    **linear("up", "mlp.fc_in"),
    **linear("down", "mlp.fc_out"),
}

FAMILIES = {
    "GPTJForCausalLM": Family(
        examples=("EleutherAI/gpt-j-6b",),
        note="blocks beside each other behind one layer norm, interleaved partial rotation",
        defaults=GPT2_DEFAULTS | {"n_positions": 2048, "rotary_dim": 64, "tie_word_embeddings": False},
        words=gpt2_words,
        switches=_gptj_switches,
        outer=OUTER,
        layer=_gptj,
        layer_prefix="transformer.h.{i}.",
        prefix="transformer.",
        unused=UNUSED,
    ),
    "CodeGenForCausalLM": Family(
        examples=("Salesforce/codegen-350M-mono", "Salesforce/codegen-16B-multi"),
        note="as GPT-J, fused products",
        defaults=GPT2_DEFAULTS | {"n_positions": 2048, "rotary_dim": 64, "tie_word_embeddings": False},
        words=gpt2_words,
        switches=_gptj_switches,
        outer=OUTER,
        layer=_gptj | {"qkv": Heads(("attn.qkv_proj.weight",), fused="quarters")},
        layer_prefix="transformer.h.{i}.",
        prefix="transformer.",
        unused=(*UNUSED, ".attn.causal_mask"),
    ),
    "FalconForCausalLM": Family(
        examples=("tiiuae/falcon-7b-instruct", "tiiuae/falcon-40b-instruct", "tiiuae/falcon-11B"),
        note="blocks beside each other behind one norm or two, one kv head or groups; not those with ALiBi",
        defaults={
            "max_position_embeddings": 2048,
            "layer_norm_epsilon": 1e-5,
            "num_kv_heads": None,
            "num_ln_in_parallel_attn": None,
            "alibi": False,
            "new_decoder_architecture": False,
            "multi_query": True,
            "parallel_attn": True,
            "bias": False,
            "ffn_hidden_size": None,
            "activation": "gelu",
            "tie_word_embeddings": True,
        },
        only={"alibi": (False,)},
        words=_falcon_words,
        switches=_falcon_switches,
        outer={
            "embed": Table("transformer.word_embeddings.weight"),
            **linear("final_norm", "transformer.ln_f"),
            "head": Table("lm_head.weight"),
        },
        layer={
            "attention_norm": Either("input_layernorm.weight", "ln_attn.weight"),
            "attention_norm_bias": Either("input_layernorm.bias", "ln_attn.bias"),
            "mlp_norm": Either("post_attention_layernorm.weight", "ln_mlp.weight"),
            "mlp_norm_bias": Either("post_attention_layernorm.bias", "ln_mlp.bias"),
            **fused("self_attention.query_key_value", "heads"),
            **linear("o", "self_attention.dense"),
            **linear("up", "mlp.dense_h_to_4h"),
            **linear("down", "mlp.dense_4h_to_h"),
        },
        layer_prefix="transformer.h.{i}.",
        prefix="transformer.",
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
            **linear("final_norm", "gpt_neox.final_layer_norm"),
            "head": Table("embed_out.weight"),
        },
        layer=linear("attention_norm", "input_layernorm")
        | fused("attention.query_key_value", "heads")
        | linear("o", "attention.dense")
        | linear("mlp_norm", "post_attention_layernorm")
        | linear("up", "mlp.dense_h_to_4h")
        | linear("down", "mlp.dense_4h_to_h"),
        layer_prefix="gpt_neox.layers.{i}.",
        prefix="gpt_neox.",
        unused=(".attention.bias", ".attention.masked_bias", "rotary_emb.inv_freq"),
    ),
}
