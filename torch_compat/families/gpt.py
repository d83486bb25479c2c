"""GPT-2 and others with learned positions: GPT-BigCode, GPT-Neo and OPT. Layer norms, biases, plain feed-forwards."""

from __future__ import annotations

from typing import Any, Literal

from jaxengine.layers.rope import Rope
from torch_compat.families.family import Config, Family, head_dim, windows
from torch_compat.recipes import Heads, Recipe, Same, Table


def gpt2_words(config: Config) -> dict[str, Any]:
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


def _gpt_neo_words(config: Config) -> dict[str, Any]:
    return {
        "num_hidden_layers": config.get("num_layers"),
        "num_attention_heads": config.get("num_heads"),
        "intermediate_size": config["intermediate_size"] or 4 * (config.get("hidden_size") or 0),
        "hidden_act": config["activation_function"],
        "rms_norm_eps": config["layer_norm_epsilon"],
        "sliding_window": config["window_size"],
        "scale_attn_weights": False,
        "mlp_bias": True,
    }


def _gpt_neo_switches(config: Config) -> dict[str, Any]:
    spread = [kind for kinds, times in config["attention_types"] for _ in range(times) for kind in kinds]
    types = ["sliding_attention" if kind == "local" else "full_attention" for kind in spread]
    return _gpt2_switches(config) | {"windows": windows(config, types), "qkv_bias": False, "o_bias": True}


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


def linear(ours: str, theirs: str, transposed: bool = False) -> dict[str, Recipe]:
    return {ours: Same(f"{theirs}.weight", transposed=transposed), f"{ours}_bias": Same(f"{theirs}.bias")}


def fused(theirs: str, fused: Literal["parts", "heads"], transposed: bool = False) -> dict[str, Recipe]:
    return {
        "qkv": Heads((f"{theirs}.weight",), fused, transposed),
        "qkv_bias": Heads((f"{theirs}.bias",), fused),
    }


OUTER: dict[str, Recipe] = {
    "embed": Table("transformer.wte.weight"),
    "positions": Same("transformer.wpe.weight"),
    **linear("final_norm", "transformer.ln_f"),
    "head": Table("lm_head.weight"),
    "head_bias": Table("lm_head.bias"),
}
NORMS = linear("attention_norm", "ln_1") | linear("mlp_norm", "ln_2")
GPT2_DEFAULTS = {
    "n_positions": 1024,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "tie_word_embeddings": True,
}
UNUSED = (".attn.bias", ".attn.masked_bias")

FAMILIES = {
    "GPT2LMHeadModel": Family(
        examples=("openai-community/gpt2", "openai-community/gpt2-xl"),
        note="learned positions, transposed weights",
        defaults=GPT2_DEFAULTS,
        only={
            "scale_attn_by_inverse_layer_idx": (False,),
            "reorder_and_upcast_attn": (False,),
            "add_cross_attention": (False,),
        },
        words=gpt2_words,
        switches=_gpt2_switches,
        outer=OUTER,
        layer=NORMS
        | fused("attn.c_attn", "parts", transposed=True)
        | linear("o", "attn.c_proj", transposed=True)
        | linear("up", "mlp.c_fc", transposed=True)
        | linear("down", "mlp.c_proj", transposed=True),
        layer_prefix="transformer.h.{i}.",
        prefix="transformer.",
        unused=UNUSED,
    ),
    "GPTBigCodeForCausalLM": Family(
        examples=("bigcode/starcoder", "bigcode/gpt_bigcode-santacoder"),
        note="one kv head, or as many as heads",
        defaults=GPT2_DEFAULTS | {"activation_function": "gelu_pytorch_tanh", "multi_query": True},
        only={"add_cross_attention": (False,)},
        words=gpt2_words,
        switches=_bigcode_switches,
        outer=OUTER,
        layer=NORMS
        | fused("attn.c_attn", "heads")
        | linear("o", "attn.c_proj")
        | linear("up", "mlp.c_fc")
        | linear("down", "mlp.c_proj"),
        layer_prefix="transformer.h.{i}.",
        prefix="transformer.",
        unused=UNUSED,
    ),
    "GPTNeoForCausalLM": Family(
        examples=("EleutherAI/gpt-neo-1.3B", "roneneldan/TinyStories-33M"),
        note="learned positions, windows in every other layer, scores as they are",
        defaults={
            "max_position_embeddings": 2048,
            "attention_types": [[["global", "local"], 12]],
            "intermediate_size": None,
            "window_size": 256,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": 1e-5,
            "tie_word_embeddings": True,
        },
        words=_gpt_neo_words,
        switches=_gpt_neo_switches,
        outer=OUTER,
        layer=NORMS
        | {"qkv": Heads(tuple(f"attn.attention.{part}_proj.weight" for part in "qkv"))}
        | linear("o", "attn.attention.out_proj")
        | linear("up", "mlp.c_fc")
        | linear("down", "mlp.c_proj"),
        layer_prefix="transformer.h.{i}.",
        prefix="transformer.",
        unused=(".attn.attention.bias", ".attn.attention.masked_bias"),
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
            **linear("final_norm", "model.decoder.final_layer_norm"),
            "embed_out": Same("model.decoder.project_out.weight"),
            "head": Table("lm_head.weight"),
        },
        layer=linear("attention_norm", "self_attn_layer_norm")
        | {
            f"qkv{ours}": Heads(tuple(f"self_attn.{part}_proj.{theirs}" for part in "qkv"))
            for ours, theirs in (("", "weight"), ("_bias", "bias"))
        }
        | linear("o", "self_attn.out_proj")
        | linear("mlp_norm", "final_layer_norm")
        | linear("up", "fc1")
        | linear("down", "fc2"),
        layer_prefix="model.decoder.layers.{i}.",
    ),
}
