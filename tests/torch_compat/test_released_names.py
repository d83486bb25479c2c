"""What released checkpoints carry beside a model's weights, and names without the prefix of the whole model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import transformers
from models_harness import load, save_transformers_model
from safetensors.numpy import load_file, save_file

from torch_compat.checkpoint import CheckpointError
from torch_compat.families import FAMILIES

MASK = np.tril(np.ones((1, 1, 8, 8), np.uint8))
RELEASED = {  # what each has in every layer
    "LlamaForCausalLM": {"self_attn.rotary_emb.inv_freq": np.ones(8, np.float32)},
    "GPT2LMHeadModel": {"attn.bias": MASK, "attn.masked_bias": np.float32(-1e4).reshape(1)},
    "GPTJForCausalLM": {"attn.bias": MASK, "attn.masked_bias": np.float32(-1e9).reshape(1)},
    "GPTBigCodeForCausalLM": {"attn.bias": MASK},
    "GPTNeoXForCausalLM": {
        "attention.bias": MASK,
        "attention.masked_bias": np.float32(-1e9).reshape(1),
        "attention.rotary_emb.inv_freq": np.ones(8, np.float32),
    },
    "GPTNeoForCausalLM": {"attn.attention.bias": MASK, "attn.attention.masked_bias": np.float32(-1e9).reshape(1)},
    "OPTForCausalLM": {},
}


def save(directory: Path, architecture: str) -> None:
    kind = getattr(transformers, architecture).config_class
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 67}
    more = {"rotary_dim": 8} if architecture.startswith("GPTJ") else {"intermediate_size": 48, "ffn_dim": 48}
    more |= {"attention_types": [[["global", "local"], 1]]} if architecture.startswith("GPTNeoF") else {}
    more = {name: size for name, size in more.items() if name in kind().to_dict()}
    save_transformers_model(directory, kind(**sizes, **more, max_position_embeddings=32, pad_token_id=None))


@pytest.mark.parametrize("architecture", RELEASED)
def test_buffers_and_bare_names(architecture: str, tmp_path: Path) -> None:
    save(tmp_path, architecture)
    _, plain = load(tmp_path)
    family, file = FAMILIES[architecture], tmp_path / "model.safetensors"
    tensors = load_file(file)
    for i in range(2):
        tensors |= {family.layer_prefix.format(i=i) + name: array for name, array in RELEASED[architecture].items()}
    save_file({name.removeprefix(family.prefix): array for name, array in tensors.items()}, file)
    _, released = load(tmp_path)
    for name in plain:
        np.testing.assert_array_equal(released[name], plain[name])


def test_a_weight_is_no_buffer(tmp_path: Path) -> None:
    save(tmp_path, "GPT2LMHeadModel")
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"transformer.h.1.attn.c_attn.scale": np.ones(3, np.float32)}, file)
    with pytest.raises(CheckpointError, match=r"'transformer\.h\.1\.attn\.c_attn\.scale' has no place in a GPT2"):
        load(tmp_path)


def test_a_layer_norm_for_each_head(tmp_path: Path) -> None:
    """A missing head's norm is named."""
    config = transformers.StableLmConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=67,
        qk_layernorm=True,
        use_parallel_residual=True,
    )
    save_transformers_model(tmp_path, config)
    model, weights = load(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    last = "model.layers.0.self_attn.q_layernorm.norms.1.weight"
    order = model.config.rope.feature_order()
    np.testing.assert_array_equal(weights["layers.0.qk_norm"][0, 1], tensors[last][order])
    save_file({name: array for name, array in tensors.items() if name != last}, file)
    with pytest.raises(
        CheckpointError, match=r"no tensor 'model\.layers\.0\.self_attn\.q_layernorm\.norms\.1\.weight'"
    ):
        load(tmp_path)


def test_a_head_that_is_not_the_embedding(tmp_path: Path) -> None:
    save(tmp_path, "GPT2LMHeadModel")
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    embedding = tensors["transformer.wte.weight"]
    save_file(tensors | {"lm_head.weight": embedding.copy()}, file)
    load(tmp_path)
    save_file(tensors | {"lm_head.weight": embedding[::-1].copy()}, file)
    with pytest.raises(CheckpointError, match=r"'lm_head\.weight' differs from 'transformer\.wte\.weight'; give"):
        load(tmp_path)
    _, weights = load(tmp_path, hf_overrides={"tie_word_embeddings": False})
    np.testing.assert_array_equal(weights["head"], embedding[::-1])
