"""A tiny config of any model type in transformers: its defaults with small sizes. Used by sweep.py."""

from __future__ import annotations

from typing import Any

VOCABULARY, WINDOW, LAYERS = 128, 8, 2

SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": LAYERS,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "head_dim": 16,
    "n_embd": 64, "n_layer": LAYERS, "n_head": 4, "n_positions": 256, "n_inner": 128, "d_model": 64, "n_layers": LAYERS,
    "n_heads": 4, "num_layers": LAYERS, "num_heads": 4, "d_ff": 128, "ffn_dim": 128, "ffn_hidden_size": 128,
    "decoder_layers": LAYERS, "decoder_attention_heads": 4, "decoder_ffn_dim": 128, "num_decoder_layers": LAYERS,
    "word_embed_proj_dim": 64, "embedding_size": 64, "sliding_window": WINDOW,
    "num_experts": 4, "num_experts_per_tok": 2, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4,
    "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32, "n_shared_experts": 1, "moe_topk": 2,
    "moe_k": 2, "expert_ffn_hidden_size": 32, "mlp_intermediate_size": 128, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 1, "q_lora_rank": 32, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16,
    "v_head_dim": 16, "qk_head_dim": 24, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "attention_dropout": 0.0, "hidden_dropout": 0.0, "laurel_rank": 16,
    "vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 16, "rotary_dim": 8,
    "num_experts_per_token": 2, "num_expert_group": 1, "linear_head_dim": 16, "linear_num_heads": 4,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "mamba_d_state": 16, "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_num_heads": 8, "mamba_head_dim": 16,
    "mamba_d_ssm": 128, "mamba_chunk_size": 8, "ssm_state_size": 16, "chunk_size": 8, "model_max_length": 256,
}  # fmt: skip

ROPE = {"rope_type": "default", "rope_theta": 10000.0}
GEMMA3N: dict[str, Any] = {
    "num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 2,
    "intermediate_size": [128] * 4, "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
}  # fmt: skip
ZAMBA: dict[str, Any] = {
    "layers_block_type": ["linear_attention", "hybrid"] * 2, "num_hidden_layers": 4,
    "attention_hidden_size": 128, "attention_head_dim": 32,
}  # fmt: skip
SPECIAL: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {"layer_group_size": 2, "group_norm_size": 4},
    "big_bird": {"attention_type": "original_full"},
    "cohere_compass_text": {"rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE}},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0},
        "ffn_config": {"hidden_size": 64, "ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "gemma3n": GEMMA3N,
    "gemma3n_text": GEMMA3N,
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": WINDOW},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "mamba_dt_rank": 4},
    "mamba2": {"num_heads": 8, "head_dim": 16, "state_size": 16, "n_groups": 2, "chunk_size": 8},
    "nemotron_h": {"time_step_min": 1e-30},  # transformers bounds time steps in prompts alone
    "reformer": {"axial_pos_embds_dim": [32, 32]},
    "xlm": {"causal": True, "emb_dim": 64, "n_words": VOCABULARY},
    "xmod": {"default_language": "en_XX"},
    "zamba": ZAMBA | {"mamba_dt_rank": 4, "n_mamba_heads": 2},
    "zamba2": ZAMBA | {"mamba_headdim": 16, "mamba_ngroups": 1, "n_mamba_heads": 8, "time_step_min": 1e-30},
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16},
}
"""What types need beside sizes."""


def tiny_config(name: str) -> Any:
    """The config of a type, or of its text part, with small sizes wherever it has them."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    whole = CONFIG_MAPPING[name]()
    kind = type(whole.get_text_config())
    given = kind().to_dict()
    sizes = {key: value for key, value in SMALL.items() if key in given}
    if given.get("sliding_window") is None:
        sizes.pop("sliding_window", None)
    if given.get("num_key_value_heads") == given.get("num_attention_heads") and "num_key_value_heads" in given:
        sizes["num_key_value_heads"] = SMALL["num_attention_heads"]
    if given.get("qk_rope_head_dim") and "head_dim" in sizes:
        sizes["head_dim"] = SMALL["qk_rope_head_dim"]
    for key in ("layer_types", "mlp_layer_types"):
        if given.get(key):
            sizes[key] = (list(dict.fromkeys(given[key])) * LAYERS)[:LAYERS]
    if "is_decoder" in given:
        sizes["is_decoder"] = True
    tiny = kind(**sizes | SPECIAL.get(name, {}))
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING:
        return tiny
    return type(whole)(text_config=tiny.to_dict())
