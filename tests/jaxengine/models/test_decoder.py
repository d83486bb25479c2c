"""The decoder against transformers: each family's switches, as checkpoints on disk, 64 greedy tokens through pages."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoder_cases import CASES, DERIVED, SIZES, config_of
from models_harness import (
    agree_up_to_ties,
    greedy,
    load,
    paged_rows,
    relative_error,
    save_transformers_model,
    transformers_greedy,
)


@pytest.fixture
def prompts() -> list[list[int]]:
    random = np.random.default_rng(1)
    return [random.integers(0, SIZES["vocab_size"], n).tolist() for n in (13, 31)]


@pytest.mark.parametrize("case", CASES)
def test_same_tokens_as_transformers(case: str, tmp_path: Path, prompts: list[list[int]]) -> None:
    reference = save_transformers_model(tmp_path, config_of(case))
    model, weights = load(tmp_path)
    steps = 16 if CASES[case][0] in DERIVED else 64
    theirs = transformers_greedy(reference, prompts, steps=steps)
    whole = "dynamic" in case  # its prompts beyond the trained length are only the same in one chunk
    ours = greedy(model, weights, prompts, steps=steps, chunk=None if whole else 7)
    np.testing.assert_array_equal(ours[0], theirs[0])
    assert relative_error(ours[1], theirs[1]) < 1e-4


def test_chunks_do_not_matter(tmp_path: Path, prompts: list[list[int]]) -> None:
    save_transformers_model(tmp_path, config_of("mistral window"))
    model, weights = load(tmp_path)
    whole, chunked = (greedy(model, weights, prompts, steps=8, chunk=chunk) for chunk in (None, 5))
    np.testing.assert_array_equal(whole[0], chunked[0])
    assert relative_error(whole[1], chunked[1]) < 1e-5


@pytest.mark.parametrize("case", ["llama biases, tied, gelu", "mistral window", "qwen3"])
def test_the_last_tokens_alone_are_the_same(case: str, tmp_path: Path, prompts: list[list[int]]) -> None:
    save_transformers_model(tmp_path, config_of(case))
    model, weights = load(tmp_path)
    table = np.arange(16, dtype=np.int32).reshape(2, 8)
    parts = [prompts[0], prompts[1][:20]]
    tokens, positions, rows = paged_rows(parts, [0, 0], table, 16, padded=40)

    def hidden(last: np.ndarray | None) -> tuple[np.ndarray, list[np.ndarray]]:
        kv = tuple(jnp.zeros(spec.shape(16), spec.dtype) for spec in model.cache_specs())
        out, kv = jax.jit(model.forward)(weights, kv, jnp.asarray(tokens), positions, rows, last)
        return np.asarray(out), [np.asarray(pool) for pool in kv]

    (every, pools), (ends, same_pools) = hidden(None), hidden(np.array([12, 32]))
    assert ends.shape == (2, SIZES["hidden_size"])
    np.testing.assert_allclose(ends, every[[12, 32]], rtol=1e-4, atol=1e-5)
    for pool, same in zip(pools, same_pools, strict=True):
        np.testing.assert_array_equal(pool, same)


HALVES = ["llama biases, tied, gelu", "qwen3", "gemma3", "olmo2", "cohere plus", "phi4 mini", "starcoder"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("case", HALVES)
def test_half_precision_agrees_up_to_ties(case: str, dtype: str, tmp_path: Path, prompts: list[list[int]]) -> None:
    reference = save_transformers_model(tmp_path, config_of(case), dtype=dtype)
    model, weights = load(tmp_path, dtype=dtype)
    wide = {name for name, array in weights.items() if array.dtype.name != dtype}
    assert all("norm" in name for name in wide)
    assert bool(wide) == case.startswith("gemma")
    ours, theirs = greedy(model, weights, prompts, steps=32), transformers_greedy(reference, prompts, steps=32)
    assert relative_error(ours[1][:, 0], theirs[1][:, 0]) < 0.05
    assert agree_up_to_ties(ours, theirs)


def test_a_wrong_weight_is_noticed(tmp_path: Path, prompts: list[list[int]]) -> None:
    """The comparison can fail: with the key norm of one layer left out, tokens differ."""
    reference = save_transformers_model(tmp_path, config_of("qwen3"))
    model, weights = load(tmp_path)
    theirs = transformers_greedy(reference, prompts, steps=16)
    weights["layers.1.k_norm"] = weights["layers.1.k_norm"] * 0 + 1
    ours = greedy(model, weights, prompts, steps=16)
    assert relative_error(ours[1], theirs[1]) > 1e-2
