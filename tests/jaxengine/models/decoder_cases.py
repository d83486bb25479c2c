"""Small configs of every family of dense decoders, with the switches that its released checkpoints use."""

from __future__ import annotations

from typing import Any

import transformers

SIZES: dict[str, Any] = {
    "vocab_size": 131,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "pad_token_id": None,
}
LONGROPE = {  # 16 features turn
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.4, 1.6, 1.8, 2.0, 2.5],
    "long_factor": [1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0],
}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 8.0}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama 3.1 rope, wide heads, one kv head": (
        "Llama",
        {"head_dim": 32, "num_key_value_heads": 1, "rope_parameters": LLAMA3},
    ),
    "llama biases, tied, gelu": (
        "Llama",
        {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "hidden_act": "gelu_pytorch_tanh"},
    ),
    "llama linear rope": (
        "Llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 3.0}},
    ),
    "llama dynamic rope": (
        "Llama",
        {
            "max_position_embeddings": 24,
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
        },
    ),
    "llama yarn": ("Llama", {"rope_parameters": YARN}),
    "mistral window": ("Mistral", {"sliding_window": 9}),
    "mistral without window": ("Mistral", {"sliding_window": None, "head_dim": 24}),
    "qwen2": ("Qwen2", {"head_dim": None}),
    "qwen2 window in the upper layers": (
        "Qwen2",
        {"head_dim": None, "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
    ),
    "qwen2 yarn, factors stated": (
        "Qwen2",
        {"head_dim": None, "rope_parameters": YARN | {"attention_factor": 1.3, "beta_fast": 16.0, "beta_slow": 2.0}},
    ),
    "qwen3": ("Qwen3", {"num_key_value_heads": 1}),
    "qwen3 bias, tied": ("Qwen3", {"attention_bias": True, "tie_word_embeddings": True}),
    "qwen3 yarn, mscale": (
        "Qwen3",
        {"rope_parameters": YARN | {"mscale": 0.7, "mscale_all_dim": 0.4, "truncate": False}},
    ),
    "gemma": ("Gemma", {"head_dim": 32, "num_key_value_heads": 1}),
    "gemma that says gelu, biases": ("Gemma", {"hidden_act": "gelu", "attention_bias": True}),
    "gemma2": (
        "Gemma2",
        {
            "head_dim": 32,
            "num_hidden_layers": 3,
            "sliding_window": 9,
            "query_pre_attn_scalar": 20,
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 2.0,
        },
    ),
    "gemma3": (
        "Gemma3Text",
        {
            "num_hidden_layers": 4,
            "sliding_window": 9,
            "query_pre_attn_scalar": 20,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "rope_parameters": {
                "full_attention": LINEAR,
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            },
        },
    ),
    "vaultgemma": ("VaultGemma", {"sliding_window": 9, "query_pre_attn_scalar": 20, "attn_logit_softcapping": 3.0}),
    "phi": ("Phi", {}),
    "phi, other rotation, tied": ("Phi", {"partial_rotary_factor": 0.25, "tie_word_embeddings": True}),
    "phi3": ("Phi3", {"sliding_window": 9}),
    "phi3.5": ("Phi3", {"rope_parameters": LONGROPE, "original_max_position_embeddings": 64}),
    "phi4 mini": (
        "Phi3",
        {
            "hidden_size": 128,
            "tie_word_embeddings": True,
            "original_max_position_embeddings": 64,
            "rope_parameters": LONGROPE | {"partial_rotary_factor": 0.5},
        },
    ),
    "olmo": ("Olmo", {"clip_qkv": 0.4}),
    "olmo, unclipped, tied": ("Olmo", {"tie_word_embeddings": True}),
    "olmo2": ("Olmo2", {}),
    "olmo3": (
        "Olmo3",
        {
            "num_hidden_layers": 4,
            "sliding_window": 9,
            "rope_parameters": {
                "full_attention": YARN,
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        },
    ),
    "granite": (
        "Granite",
        {
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.3,
            "attention_multiplier": 0.1,
            "logits_scaling": 4.0,
            "attention_bias": True,
            "tie_word_embeddings": True,
        },
    ),
    "hyperclova x": (
        "HyperCLOVAX",
        {"embedding_multiplier": 3.0, "residual_multiplier": 0.3, "attention_multiplier": 0.1, "logits_scaling": 0.2},
    ),
    "hyperclova x without norms behind": ("HyperCLOVAX", {"use_post_norm": False}),
    "smollm3": ("SmolLM3", {"no_rope_layer_interval": 2}),
    "smollm3 windows, biases": (
        "SmolLM3",
        {
            "no_rope_layers": [0, 1],
            "use_sliding_window": True,
            "sliding_window": 9,
            "attention_bias": True,
            "mlp_bias": True,
        },
    ),
    "starcoder2": ("Starcoder2", {"sliding_window": 9}),
    "starcoder2 without biases": ("Starcoder2", {"use_bias": False, "tie_word_embeddings": False}),
    "stablelm": ("StableLm", {"use_qkv_bias": True}),
    "stablelm 12b": ("StableLm", {"use_parallel_residual": True, "qk_layernorm": True, "partial_rotary_factor": 0.5}),
    "cohere": ("Cohere", {"attention_bias": True}),
    "cohere plus": ("Cohere", {"use_qk_norm": True, "logit_scale": 0.8}),
    "cohere2": (
        "Cohere2",
        {"sliding_window": 9, "layer_types": ["sliding_attention", "full_attention"], "logit_scale": 0.25},
    ),
    "glm": ("Glm", {}),
    "glm4": ("Glm4", {"head_dim": 32, "attention_bias": False}),
    "ministral": ("Ministral", {"sliding_window": 9, "layer_types": ["sliding_attention", "full_attention"]}),
    "ministral3": (
        "Ministral3",
        {"rope_parameters": YARN | {"mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1}},
    ),
    "seed oss": ("SeedOss", {}),
    "seed oss, all biases": ("SeedOss", {"attention_out_bias": True, "mlp_bias": True}),
    "ernie": ("Ernie4_5", {}),
    "ernie biases": ("Ernie4_5", {"use_bias": True}),
    "arcee": ("Arcee", {"rope_parameters": YARN}),
    "arcee biases": ("Arcee", {"mlp_bias": True, "attention_bias": True}),
    "helium": ("Helium", {}),
    "exaone4": ("Exaone4", {"num_hidden_layers": 3, "sliding_window": 9, "sliding_window_pattern": 2}),
    "exaone4 without windows": (
        "Exaone4",
        {"sliding_window": None, "layer_types": ["full_attention"] * 2, "rope_parameters": LLAMA3},
    ),
    "apertus": ("Apertus", {"rope_parameters": LLAMA3}),
    "hunyuan": (
        "HunYuanDenseV1",
        {
            "head_dim": 32,
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 1.0, "alpha": 50.0},
        },
    ),
    "hunyuan, biases": ("HunYuanDenseV1", {"attention_bias": True, "tie_word_embeddings": True}),
    "gpt2": ("GPT2", {}),
    "gpt2 unscaled, narrow, untied": (
        "GPT2",
        {"scale_attn_weights": False, "n_inner": 96, "tie_word_embeddings": False, "activation_function": "relu"},
    ),
    "starcoder": ("GPTBigCode", {}),
    "gpt bigcode with all heads": ("GPTBigCode", {"multi_query": False}),
    "gpt-j": ("GPTJ", {"rotary_dim": 8}),
    "pythia": ("GPTNeoX", {}),
    "gpt-neox one behind the other, all turning": (
        "GPTNeoX",
        {
            "use_parallel_residual": False,
            "attention_bias": False,
            "hidden_act": "gelu_fast",
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
        },
    ),
    "gpt-neo": ("GPTNeo", {"attention_types": [[["global", "local"], 1]], "window_size": 9}),
    "codegen": ("CodeGen", {"rotary_dim": 8, "n_head": 8}),
    "falcon 7b": ("Falcon", {"ffn_hidden_size": 96}),
    "falcon 40b": ("Falcon", {"new_decoder_architecture": True, "num_kv_heads": 2, "bias": True}),
    "falcon 11b": (
        "Falcon",
        {
            "new_decoder_architecture": True,
            "num_kv_heads": 2,
            "num_ln_in_parallel_attn": 1,
            "tie_word_embeddings": False,
        },
    ),
    "falcon one behind the other, all heads": ("Falcon", {"parallel_attn": False, "multi_query": False}),
    "nemotron": ("Nemotron", {}),
    "nemotron biases": ("Nemotron", {"attention_bias": True, "mlp_bias": True, "partial_rotary_factor": 1.0}),
    "cwm": ("Cwm", {"num_hidden_layers": 3, "sliding_window": 9, "rope_parameters": LLAMA3}),
    "opt": ("OPT", {"ffn_dim": 96}),
    "opt 350m": ("OPT", {"ffn_dim": 96, "do_layer_norm_before": False, "word_embed_proj_dim": 24}),
    "galactica": (
        "OPT",
        {"ffn_dim": 96, "enable_bias": False, "layer_norm_elementwise_affine": False, "activation_function": "gelu"},
    ),
}
# Families that differ from another by a switch or two.
DERIVED = ("Ministral", "SeedOss", "Ernie4_5", "Arcee", "Helium", "Starcoder2", "CodeGen", "Cwm", "VaultGemma")
KEPT = ("sliding_window", "pad_token_id")  # where None is not to be left out


def config_of(case: str, **changes: Any) -> Any:
    """transformers' config of a case, as small as SIZES for what its family has."""
    family, switches = CASES[case]
    kind = getattr(transformers, f"{family}Config")
    known = {*kind().to_dict(), *kind.attribute_map}
    sizes = {name: value for name, value in SIZES.items() if name in known} | switches | changes
    return kind(**{name: value for name, value in sizes.items() if value is not None or name in KEPT})
