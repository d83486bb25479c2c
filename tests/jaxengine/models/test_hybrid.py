"""Decoders with recurrent layers against transformers: checkpoints on disk, greedy tokens through pages and slots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from models_harness import (
    agree_up_to_ties,
    greedy,
    load,
    paged_rows,
    relative_error,
    save_transformers_model,
    transformers_greedy,
)

from jaxengine.state import StateShape, create_state
from pallas_kernels.backend import use_backend

SIZES: dict[str, Any] = {
    "vocab_size": 131,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
DELTA = {
    "linear_key_head_dim": 16, "linear_value_head_dim": 24, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "head_dim": 32, "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
EXPERTS = {
    "num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 48
}  # fmt: skip
MAMBA = {
    "mamba_n_heads": 8, "mamba_d_state": 16, "mamba_d_head": 16, "layer_types": ["linear_attention", "full_attention"]
}  # fmt: skip
NEMOTRON = {
    "num_hidden_layers": None, "head_dim": 24, "mamba_num_heads": 8, "mamba_head_dim": 16, "n_groups": 2,
    "ssm_state_size": 16, "time_step_min": 1e-20, "layers_block_type": ["linear_attention", "mlp", "full_attention"],
}  # fmt: skip
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3-next, dense": ("Qwen3Next", DELTA | {"mlp_only_layers": [0, 1]}),
    "qwen3-next, one layer dense": ("Qwen3Next", DELTA | EXPERTS | {"mlp_only_layers": [1]}),
    "qwen3.5 moe": ("Qwen3_5MoeText", DELTA | EXPERTS | {"intermediate_size": None}),
    "qwen3.5": ("Qwen3_5Text", DELTA | {"linear_num_value_heads": 2, "tie_word_embeddings": True}),
    "bamba": ("Bamba", MAMBA | {"layer_types": None, "attn_layer_indices": [1], "mamba_n_groups": 2}),
    "granite 4": (
        "GraniteMoeHybrid",
        MAMBA | {"num_local_experts": 4, "shared_intermediate_size": 48, "tie_word_embeddings": True},
    ),
    "granite 4, dense": (
        "GraniteMoeHybrid",
        MAMBA
        | {
            "num_local_experts": 0, "shared_intermediate_size": 48, "embedding_multiplier": 3.0, "logits_scaling": 2.0,
            "residual_multiplier": 0.7, "attention_multiplier": 0.3, "mamba_proj_bias": True,
        },
    ),
    "granite 4, dense, rope": (
        "GraniteMoeHybrid",
        MAMBA | {"num_local_experts": 0, "shared_intermediate_size": 48, "position_embedding_type": "rope"},
    ),
    "nemotron-h": ("NemotronH", NEMOTRON),
    "nemotron-h with experts": (
        "NemotronH",
        NEMOTRON
        | {
            "layers_block_type": ["linear_attention", "moe", "full_attention", "moe"], "n_routed_experts": 8,
            "num_experts_per_tok": 3, "moe_intermediate_size": 32, "moe_shared_expert_intermediate_size": 48,
            "routed_scaling_factor": 2.5, "n_group": 2, "topk_group": 1,
        },
    ),
    "nemotron-h biases": ("NemotronH", NEMOTRON | {"mlp_bias": True, "attention_bias": True, "use_bias": True}),
    "lfm2": ("Lfm2", {"layer_types": ["conv", "full_attention"], "block_multiple_of": 8}),
    "lfm2 moe": (
        "Lfm2Moe",
        {
            "layer_types": ["conv", "full_attention"], "num_dense_layers": 1, "num_experts": 8,
            "num_experts_per_tok": 3, "moe_intermediate_size": 32, "routed_scaling_factor": 1.5,
        },
    ),
    "lfm2 biases": (
        "Lfm2",
        {
            "layer_types": ["full_attention", "conv"], "conv_bias": True, "conv_L_cache": 4,
            "block_auto_adjust_ff_dim": False,
        },
    ),
}  # fmt: skip


def config_of(case: str, **changes: Any) -> Any:
    family, switches = CASES[case]
    sizes = {name: value for name, value in (SIZES | switches | changes).items() if value is not None}
    return getattr(transformers, f"{family}Config")(**sizes)


@pytest.fixture
def prompts() -> list[list[int]]:
    random = np.random.default_rng(1)
    return [random.integers(0, SIZES["vocab_size"], n).tolist() for n in (13, 81)]


@pytest.mark.parametrize("case", CASES)
def test_same_tokens_as_transformers(case: str, tmp_path: Path, prompts: list[list[int]]) -> None:
    """Chunks of 7 and of 75: some rows decode while others are in their prompts, some chunks are of one token."""
    reference = save_transformers_model(tmp_path, config_of(case))
    model, weights = load(tmp_path)
    theirs = transformers_greedy(reference, prompts, steps=24, positions=case == "bamba")
    for chunk in (7, 75):
        ours = greedy(model, weights, prompts, steps=24, chunk=chunk)
        np.testing.assert_array_equal(ours[0], theirs[0])
        assert relative_error(ours[1], theirs[1]) < 1e-4


@pytest.mark.parametrize("case", ["qwen3.5", "granite 4, dense", "bamba", "nemotron-h", "lfm2"])
def test_devices_share_the_heads(case: str, tmp_path: Path, prompts: list[list[int]]) -> None:
    """Also more devices than groups of Mamba 2, which are then copied, and each device computes its own heads."""
    save_transformers_model(tmp_path, config_of(case))
    one, several = (
        greedy(*load(tmp_path, tp=tp), prompts, steps=4, chunk=40) for tp in (1, 2 if case == "qwen3.5" else 4)
    )
    np.testing.assert_array_equal(one[0], several[0])
    assert relative_error(several[1], one[1]) < 1e-5


@pytest.mark.parametrize("case", ["qwen3.5", "nemotron-h", "lfm2"])
def test_the_kernels_of_single_steps_within_a_model(case: str, tmp_path: Path, prompts: list[list[int]]) -> None:
    save_transformers_model(tmp_path, config_of(case))
    model, weights = load(tmp_path)
    expected = greedy(model, weights, prompts, steps=4)
    jax.clear_caches()
    with use_backend("gated_delta=pallas,state_space=pallas,causal_conv=pallas"):
        ours = greedy(model, weights, prompts, steps=4)
    jax.clear_caches()
    np.testing.assert_array_equal(ours[0], expected[0])
    assert relative_error(ours[1], expected[1]) < 1e-5


@pytest.mark.parametrize("recurrent", [True, False])
@pytest.mark.parametrize("case", ["qwen3.5", "granite 4, dense", "nemotron-h", "lfm2"])
def test_the_last_tokens_alone_are_the_same(
    case: str, recurrent: bool, tmp_path: Path, prompts: list[list[int]]
) -> None:
    """Whichever kind of layer is the last: it sees all tokens, and computes the rest for those that are asked for."""
    kinds = ["conv" if case == "lfm2" else "linear_attention", "full_attention"]
    name = "layers_block_type" if case == "nemotron-h" else "layer_types"
    save_transformers_model(tmp_path, config_of(case, **{name: kinds[::-1] if recurrent else kinds}))
    model, weights = load(tmp_path)
    table = np.arange(16, dtype=np.int32).reshape(2, 8)
    tokens, positions, rows = paged_rows([prompts[0], prompts[1][:20]], [0, 0], table, 16, padded=40)

    def hidden(last: np.ndarray | None) -> tuple[np.ndarray, list[np.ndarray]]:
        kv = create_state(model, StateShape(16, 2, 8)).kv
        out, kv = jax.jit(model.forward)(weights, kv, jnp.asarray(tokens), positions, rows, last)
        return np.asarray(out), jax.tree.leaves(kv)

    (every, caches), (ends, same_caches) = hidden(None), hidden(np.array([12, 32]))
    np.testing.assert_allclose(ends, every[[12, 32]], rtol=1e-4, atol=1e-5)
    for cache, same in zip(caches, same_caches, strict=True):
        np.testing.assert_allclose(cache, same, atol=1e-6)


def test_a_slot_starts_anew_whatever_its_last_owner_left(tmp_path: Path, prompts: list[list[int]]) -> None:
    """Prompts run in slots that were full of other things, and dead rows spoil nobody's."""
    save_transformers_model(tmp_path, config_of("qwen3.5"))
    model, weights = load(tmp_path)
    tokens, positions, rows = paged_rows([prompts[0], []], [0, 0], np.arange(8, dtype=np.int32).reshape(2, 4), 8, 16)
    clean = create_state(model, StateShape(8, 2, 4)).kv
    dirty = jax.tree.map(lambda x: x + 7, clean)
    results = [jax.jit(model.forward)(weights, kv, jnp.asarray(tokens), positions, rows) for kv in (clean, dirty)]
    (expected, after_clean), (out, after_dirty) = results
    np.testing.assert_array_equal(out[:13], expected[:13])
    for kept, start in zip(after_dirty, dirty, strict=True):
        if isinstance(kept, dict):
            for name in kept:
                np.testing.assert_array_equal(kept[name][1], start[name][1])
    assert any(isinstance(kept, dict) for kept in after_clean)


@pytest.mark.parametrize("case", ["qwen3.5", "granite 4, dense", "nemotron-h", "lfm2"])
def test_half_precision_agrees_up_to_ties(case: str, tmp_path: Path, prompts: list[list[int]]) -> None:
    reference = save_transformers_model(tmp_path, config_of(case), dtype="bfloat16")
    model, weights = load(tmp_path, dtype="bfloat16")
    ours = greedy(model, weights, prompts, steps=16, chunk=40)
    theirs = transformers_greedy(reference, prompts, steps=16)
    assert relative_error(ours[1][:, 0], theirs[1][:, 0]) < 0.05
    assert agree_up_to_ties(ours, theirs)


def test_a_wrong_weight_is_noticed(tmp_path: Path, prompts: list[list[int]]) -> None:
    reference = save_transformers_model(tmp_path, config_of("qwen3.5"))
    model, weights = load(tmp_path)
    weights["layers.0.a_log"] = weights["layers.0.a_log"] * 0
    theirs, ours = transformers_greedy(reference, prompts, steps=8), greedy(model, weights, prompts, steps=8)
    assert relative_error(ours[1], theirs[1]) > 1e-3
