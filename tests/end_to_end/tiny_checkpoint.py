"""The tiny random model of the end-to-end tests: its config.json, its tensors, and engine arguments to run it with."""

from __future__ import annotations

from typing import Any

import numpy as np

TINY: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 256,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "eos_token_id": 255,
    "bos_token_id": 254,
}

SMALL_ENGINE: dict[str, Any] = {
    "skip_tokenizer_init": True,
    "dtype": "float32",
    "max_num_seqs": 8,
    "max_num_batched_tokens": 64,
    "max_model_len": 128,
    "compilation_cache_dir": "off",
    "use_tqdm_on_load": False,
}


def random_tensors() -> dict[str, np.ndarray]:
    """The tiny model's checkpoint; every parameter matters."""
    E, F, V, D = (TINY[name] for name in ("hidden_size", "intermediate_size", "vocab_size", "head_dim"))
    q, kv = TINY["num_attention_heads"] * D, TINY["num_key_value_heads"] * D
    layer = {"input_layernorm": (E,), "post_attention_layernorm": (E,)}
    layer |= {"self_attn.q_norm": (D,), "self_attn.k_norm": (D,)}
    layer |= {"self_attn.q_proj": (q, E), "self_attn.k_proj": (kv, E), "self_attn.v_proj": (kv, E)}
    layer |= {"self_attn.o_proj": (E, q), "mlp.gate_proj": (F, E), "mlp.up_proj": (F, E), "mlp.down_proj": (E, F)}
    shapes = {"model.embed_tokens": (V, E), "model.norm": (E,), "lm_head": (V, E)}
    for i in range(TINY["num_hidden_layers"]):
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
    random = np.random.default_rng(0)
    tensors = {}
    for name, shape in shapes.items():
        center, scale = (1, 0.2) if len(shape) == 1 else (0, 1.5 * shape[1] ** -0.5)
        tensors[f"{name}.weight"] = random.normal(center, scale, shape).astype(np.float32)
    return tensors
