"""Tiny random models: a config.json in a directory, weights made by load_format="dummy"."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jaxengine import LLM

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
    "load_format": "dummy",
    "skip_tokenizer_init": True,
    "dtype": "float32",
    "max_num_seqs": 8,
    "max_num_batched_tokens": 64,
    "max_model_len": 128,
    "compilation_cache_dir": "off",
    "use_tqdm_on_load": False,
}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny")
    (directory / "config.json").write_text(json.dumps(TINY))
    return directory


@pytest.fixture(scope="module")
def make_llm(tiny_model: Path) -> Any:
    """LLM(tiny model) with changes; closed when the module is done."""
    made: list[LLM] = []

    def make(**changes: Any) -> LLM:
        made.append(LLM(str(tiny_model), **(SMALL_ENGINE | changes)))
        return made[-1]

    yield make
    for llm in made:
        llm.close()


Make = Callable[..., LLM]
