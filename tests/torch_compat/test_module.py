"""transformers' modules as models of ours: a few of the types that sweep.py runs, and what a probe learns of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest
from transformers import AutoConfig

from jaxengine.cache.full import FullCacheSpec
from jaxengine.cache.recurrent import RecurrentCacheSpec
from jaxengine.models import UnsupportedModel
from jaxengine.sharding import make_mesh
from tests.torch_compat import sweep
from tests.torch_compat.tiny_configs import VOCABULARY, WINDOW, tiny_config
from torch_compat.module import TorchModel
from torch_compat.skeleton import build_module

FLOAT32 = jnp.dtype(jnp.float32)


@pytest.mark.parametrize(
    "name",
    [
        "gemma2",  # windows in every other layer, scores and logits bounded
        "gpt_oss",  # sinks, experts with biases and of another layout
        "deepseek_v3",  # keys and values of unlike sizes, routing with a trained correction
        "gpt2",  # weights that lie the other way round
        "bart",  # positions counted from the cache's length
        "roberta",  # and from the padding
        "bloom",  # a bias by position, without the attention interface
        "falcon",
        "recurrent_gemma",  # state kept by the modules themselves
        "mamba",  # state in slots
        "lfm2",  # and beside pages
        "qwen3_next",
    ],
)
def test_logits_are_those_of_transformers(name: str) -> None:
    result = sweep.check(name)
    assert result.matches, result


def model_of(config: Any, **sizes: Any) -> TorchModel:
    return TorchModel(build_module(config, FLOAT32), make_mesh(1), **sizes)


def test_a_probe_says_what_each_layer_keeps() -> None:
    gemma = model_of(tiny_config("gemma2"), page_size=8)
    assert gemma.cache_specs() == tuple(FullCacheSpec(2, 16, 8, FLOAT32, window) for window in (WINDOW, None))
    deepseek = model_of(tiny_config("deepseek_v3"))
    assert deepseek.cache_specs()[0] == FullCacheSpec(4, 32, 16, FLOAT32)  # keys of 24, values of 16
    mamba, _ = model_of(tiny_config("mamba")).cache_specs()
    assert isinstance(mamba, RecurrentCacheSpec)
    assert {state.name for state in mamba.states} == {"conv0", "recurrent0"}
    assert (gemma.config.vocab_size, gemma.config.num_kv_heads, gemma.config.max_length) == (VOCABULARY, 2, 256)


def test_nothing_is_allocated_for_a_large_model() -> None:
    config = AutoConfig.for_model(
        "qwen3", hidden_size=4096, intermediate_size=12288, num_hidden_layers=2, num_attention_heads=32,
        num_key_value_heads=8, head_dim=128,
    )  # fmt: skip
    model = model_of(config)
    assert all(parameter.is_meta for parameter in model.module.parameters())
    assert sum(spec.nbytes for spec in model.weight_specs().values()) > 5e9
    assert {spec.head_dim for spec in model.cache_specs() if isinstance(spec, FullCacheSpec)} == {128}


def test_tied_weights_are_one_array() -> None:
    config = tiny_config("llama")
    config.tie_word_embeddings = True
    model = model_of(config)
    assert model.aliases == {"lm_head.weight": "model.embed_tokens.weight"}
    assert "lm_head.weight" not in model.weight_specs()


def test_what_transformers_keeps_in_float32_stays_so(tmp_path: Path) -> None:
    config = tiny_config("deepseek_v3")
    reference = sweep.reference_model(config)
    reference.save_pretrained(tmp_path)
    loaded = type(reference).from_pretrained(tmp_path, dtype="bfloat16")
    model = TorchModel(build_module(config, jnp.dtype(jnp.bfloat16)), make_mesh(1))
    dtypes = {name: f"torch.{spec.dtype}" for name, spec in model.weight_specs().items()}
    assert dtypes == {name: str(tensor.dtype) for name, tensor in loaded.state_dict().items()}
    assert dtypes["model.layers.1.mlp.gate.e_score_correction_bias"] == "torch.float32"  # of the router's all, or this
    assert set(dtypes.values()) == {"torch.float32", "torch.bfloat16"}
    assert model.constants["model.rotary_emb.inv_freq"].dtype == jnp.float32
    assert model.config.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("big_bird", {"attention_type": "block_sparse"}, "block-sparse"),
        ("doge", {}, "makes a mask of its own"),
        ("bert", {"is_decoder": False}, "later tokens|bidirectional"),
        ("xlnet", {}, "relative"),
        ("inkling_text", {}, "bias that it computes"),
        ("dbrx", {}, "values of tensors"),
    ],
)
def test_what_our_kernels_would_compute_wrongly_is_refused(name: str, changes: dict[str, Any], message: str) -> None:
    config = tiny_config(name)
    for key, value in changes.items():
        setattr(config, key, value)
    with pytest.raises(UnsupportedModel, match=message):
        model_of(config)


def test_contexts_end_where_chunks_of_attention_do() -> None:
    config = tiny_config("llama4_text")
    config.attention_chunk_size = 16
    assert model_of(config).config.max_length == 16


def test_programs_are_found_again_by_what_they_depend_on() -> None:
    config = tiny_config("qwen3")
    first, second = repr(model_of(config)), repr(model_of(config))
    assert first == second
    assert repr(model_of(config, page_size=8)) != first
    config.rms_norm_eps = 0.1
    assert repr(model_of(config)) != first
