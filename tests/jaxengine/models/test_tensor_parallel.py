"""The decoder on several devices: the same tokens as on one, and no more communication than it must have."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from decoder_cases import config_of
from models_harness import PAGE, greedy, load, paged_rows, relative_error, run, save_transformers_model
from transformers import LlamaConfig, Qwen2Config

from jaxengine.layers.rope import Rope
from jaxengine.models import Model, ModelConfig, abstract_weights, build_model
from jaxengine.sharding import ShardingError, make_mesh

LAYERS = 3
SIZES: dict[str, Any] = {
    "vocab_size": 131,  # no multiple of 2
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,  # fewer than 4 or 8 devices
}
CONFIGS = {
    "llama, biases": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "qwen2, tied": Qwen2Config(**SIZES, tie_word_embeddings=True),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_same_tokens_on_any_number_of_devices(name: str, tmp_path: Path) -> None:
    save_transformers_model(tmp_path, CONFIGS[name])
    prompts = [np.random.default_rng(n).integers(0, 131, n).tolist() for n in (3, 14)]
    one = greedy(*load(tmp_path), prompts, steps=24)
    for tp in (2, 4, 8):
        many = greedy(*load(tmp_path, tp=tp), prompts, steps=24)
        np.testing.assert_array_equal(many[0], one[0])
        assert relative_error(many[1], one[1]) < 1e-5


@pytest.mark.parametrize("case", ["gemma3", "olmo2", "cohere plus", "phi4 mini", "starcoder", "opt 350m", "hunyuan"])
def test_same_tokens_of_other_kinds_of_layers(case: str, tmp_path: Path) -> None:
    """Norms behind blocks, over all heads, blocks beside each other, fused weights, one kv head, narrow embeddings."""
    save_transformers_model(tmp_path, config_of(case))
    prompts = [np.random.default_rng(n).integers(0, 131, n).tolist() for n in (3, 14)]
    one = greedy(*load(tmp_path), prompts, steps=12)
    for tp in (2, 4):
        many = greedy(*load(tmp_path, tp=tp), prompts, steps=12)
        np.testing.assert_array_equal(many[0], one[0])
        assert relative_error(many[1], one[1]) < 1e-5


def decoder(tp: int, **changes: Any) -> Model:
    sizes: dict[str, Any] = {
        "architecture": "LlamaForCausalLM",
        "vocab_size": 136,
        "hidden_size": 64,
        "mlp_size": 96,
        "num_layers": LAYERS,
        "num_heads": 8,
        "num_kv_heads": 8,
        "head_dim": 8,
        "rope": Rope(8),
        "max_position_embeddings": 64,
        "dtype": np.dtype("float32"),
    }
    return build_model(ModelConfig(**(sizes | changes)), make_mesh(tp), page_size=PAGE)


def collectives(model: Model, decode_only: bool) -> Counter[tuple[str, int]]:
    """Collective operations in the compiled program of one step, by name and by size of the result in elements."""
    table = np.arange(4, dtype=np.int32).reshape(2, 2)
    parts = [[1], [2]] if decode_only else [[1, 2, 3], [4]]
    inputs = paged_rows(parts, [2, 2], table, num_pages=4, padded=None if decode_only else 8)
    pools = tuple(
        jax.ShapeDtypeStruct(spec.shape(4), spec.dtype, sharding=jax.NamedSharding(model.mesh, spec.partition_spec))
        for spec in model.cache_specs()
    )
    text = run.lower(model, abstract_weights(model), pools, *inputs).compile().as_text()
    names = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|collective-broadcast"
    found = re.findall(rf"= \(?\w+\[([\d,]*)\]\S* ({names})(?:-start)?\(", text)
    assert len(found) == len(re.findall(rf" (?:{names})(?:-start)?\(", text))
    return Counter((name, math.prod(map(int, shape.split(",")))) for shape, name in found)


def expected(decode_only: bool) -> Counter[tuple[str, int]]:
    """All-reduces of hidden states [T, E] and one gather of logits [T, V']: never of a weight."""
    T = 2 if decode_only else 8
    return Counter({("all-reduce", T * 64): 2 * LAYERS + 1, ("all-gather", T * 136): 1})


@pytest.mark.parametrize("tp", [2, 4, 8])
@pytest.mark.parametrize("decode_only", [True, False], ids=["decode", "mixed"])
def test_two_all_reduces_a_layer(tp: int, decode_only: bool) -> None:
    """One for the embedding, two for each layer, and a gather of the logits."""
    assert collectives(decoder(tp), decode_only) == expected(decode_only)


def test_one_device_does_not_communicate() -> None:
    assert not collectives(decoder(1), True)


@pytest.mark.parametrize("changes", [{"num_kv_heads": 2}, {"vocab_size": 133}, {"qk_norm": "head", "qkv_bias": True}])
def test_copied_kv_heads_and_padding_cost_no_communication(changes: dict[str, Any]) -> None:
    assert collectives(decoder(4, **changes), True) == expected(True)


@pytest.mark.parametrize(
    ("tp", "changes", "message"),
    [
        (3, {}, r"tensor_parallel_size=3 does not divide the model's 8 attention heads; try 1 or 2\."),
        (4, {"num_heads": 12, "num_kv_heads": 6}, r"neither divides the model's 6 kv heads .* try 1 or 2 or 3\."),
        (
            8,
            {"mlp_size": 36},
            r"tensor_parallel_size=8 does not divide the model's mlp size \(36\); try 1 or 2 or 3 or 4 or 6\.",
        ),
    ],
)
def test_what_cannot_be_split_says_what_can(tp: int, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ShardingError, match=message):
        decoder(tp, **changes)


def test_too_few_devices() -> None:
    with pytest.raises(ShardingError, match=r"tensor_parallel_size=9 needs 9 devices, but jax sees 8 \(cpu\)"):
        make_mesh(9)
