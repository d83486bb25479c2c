"""A trained model as a Hugging Face folder: configuration, weights, tokenizer, model card.

Called by examples/train_demo_model.py; transformers' Qwen3ForCausalLM and jaxengine load the folder as it is.
"""

import json
from pathlib import Path

import jax.numpy as jnp
from flax import nnx
from safetensors.flax import save_file
from tokenizers import Tokenizer

from demo.model import Qwen3, Shape
from demo.render import END_OF_TEXT, END_OF_TURN
from demo.tokenizer import CONTEXT, save_tokenizer


def named_weights(model: Qwen3) -> dict[str, jnp.ndarray]:
    """Hugging Face's names, matrices as [outputs, inputs], bfloat16."""
    weights = {}
    for path, value in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        *module, leaf = map(str, path)
        array = value[...]
        name = ".".join(["model", *module, "weight"])
        weights[name] = jnp.asarray(array.T if leaf == "kernel" else array, jnp.bfloat16)
    return weights


def config(shape: Shape, tokenizer: Tokenizer) -> dict[str, object]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.mlp,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": shape.norm_eps,
        "rope_theta": shape.rope_theta,
        "rope_scaling": None,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "sliding_window": None,
        "max_window_layers": shape.layers,
        "tie_word_embeddings": True,
        "initializer_range": 0.02,
        "use_cache": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.token_to_id(END_OF_TURN),
        "pad_token_id": tokenizer.token_to_id(END_OF_TEXT),
        "torch_dtype": "bfloat16",
    }


def save_model(model: Qwen3, shape: Shape, tokenizer: Tokenizer, card: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(named_weights(model), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    ends = [tokenizer.token_to_id(END_OF_TURN), tokenizer.token_to_id(END_OF_TEXT)]
    generation = {"eos_token_id": ends, "pad_token_id": ends[1], "do_sample": False}
    (folder / "config.json").write_text(json.dumps(config(shape, tokenizer), indent=2) + "\n")
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    (folder / "README.md").write_text(card)
    save_tokenizer(tokenizer, folder)
