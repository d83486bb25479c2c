"""The language model within a model that also sees: its config, its names as released and as in memory, its tokens."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from models_harness import greedy, load, relative_error, save_transformers_model, transformers_greedy
from safetensors.numpy import load_file, save_file

from torch_compat.checkpoint import CheckpointError

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
SEEING = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "head_dim": 16,
    "image_size": 16,
    "patch_size": 8,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
PROMPTS = [np.random.default_rng(1).integers(0, 131, n).tolist() for n in (13, 31)]


def gemma3() -> Any:
    text = SIZES | {"sliding_window": 9, "layer_types": ["sliding_attention", "full_attention"]}
    return transformers.Gemma3Config(
        text_config=text, vision_config=SEEING | {"model_type": "siglip_vision_model"}, mm_tokens_per_image=4
    )


def mistral3(text: dict[str, Any]) -> Any:
    vision = SEEING | {"model_type": "pixtral"}
    return transformers.Mistral3Config(text_config=SIZES | text, vision_config=vision, tie_word_embeddings=False)


def qwen(family: str) -> Any:
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 64}
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    kind = getattr(transformers, f"{family}Config")
    vision = {name: size for name, size in vision.items() if name in kind().vision_config.to_dict()}
    vision |= {"embed_dim": 32, "hidden_size": 64} if family == "Qwen2VL" else {}
    return kind(text_config=SIZES | {"rope_parameters": rope, "head_dim": 16}, vision_config=vision)


CONFIGS = {  # and how released checkpoints spell the names of the language model
    "gemma3": (gemma3, "language_model.model."),
    "mistral3": (lambda: mistral3({"model_type": "mistral", "sliding_window": None}), "language_model.model."),
    "ministral3": (
        lambda: mistral3({"model_type": "ministral3", "rope_parameters": YARN | {"llama_4_scaling_beta": 0.1}}),
        "language_model.model.",
    ),
    "qwen2 vl": (lambda: qwen("Qwen2VL"), "model."),
    "qwen2.5 vl": (lambda: qwen("Qwen2_5_VL"), "model."),
    "qwen3 vl": (lambda: qwen("Qwen3VL"), "model.language_model."),
}


def respell(directory: Path, old: str, new: str) -> list[str]:
    """Writes the checkpoint anew, with other beginnings of names. Returns its names."""
    file = directory / "model.safetensors"
    tensors = {name.replace(old, new, 1) if name.startswith(old) else name: t for name, t in load_file(file).items()}
    save_file(tensors, file)
    return list(tensors)


@pytest.mark.parametrize("name", CONFIGS)
def test_same_tokens_as_the_whole_model(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config, beginning = CONFIGS[name]
    reference = save_transformers_model(tmp_path, config())
    assert f"{beginning}norm.weight" in load_file(tmp_path / "model.safetensors")
    with caplog.at_level(logging.INFO):
        released = greedy(*load(tmp_path), PROMPTS, steps=24, chunk=7)
    assert [record.message.split(" for ")[1] for record in caplog.records if "served" in record.message] == [
        "text alone: the parts of it that see are not read."
    ]
    theirs = transformers_greedy(reference, PROMPTS, steps=24)
    np.testing.assert_array_equal(released[0], theirs[0])
    assert relative_error(released[1], theirs[1]) < 1e-4
    respell(tmp_path, "language_model.lm_head", "lm_head")
    assert "model.language_model.norm.weight" in respell(tmp_path, beginning, "model.language_model.")
    in_memory = greedy(*load(tmp_path), PROMPTS, steps=24, chunk=7)
    np.testing.assert_array_equal(in_memory[1], released[1])


def test_what_the_language_model_has_too_much_is_noticed(tmp_path: Path) -> None:
    save_transformers_model(tmp_path, gemma3())
    respell(tmp_path, "language_model.model.layers.1.mlp.up_proj.weight", "language_model.model.layers.1.mlp.up.weight")
    with pytest.raises(CheckpointError, match=r"no tensor 'language_model\.model\.layers\.1\.mlp\.up_proj\.weight'"):
        load(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file(load_file(file) | {"language_model.model.layers.1.mlp.up_proj.weight": np.zeros((96, 64), "f")}, file)
    with pytest.raises(CheckpointError, match=r"'language_model\.model\.layers\.1\.mlp\.up\.weight' has no place"):
        load(tmp_path)


def test_overrides_reach_the_language_model(tmp_path: Path) -> None:
    save_transformers_model(tmp_path, gemma3())
    config = json.loads((tmp_path / "config.json").read_text())
    assert "num_hidden_layers" not in config
    model, _ = load(tmp_path, hf_overrides={"num_hidden_layers": 1})
    assert model.config.num_layers == 1
