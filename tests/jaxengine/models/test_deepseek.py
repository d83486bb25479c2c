"""Models with latent attention against transformers: checkpoints on disk, greedy tokens through pages in chunks."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import transformers
from models_harness import (
    PAGE,
    greedy,
    load,
    paged_rows,
    relative_error,
    run,
    save_transformers_model,
    transformers_greedy,
)

from jaxengine.models import UnsupportedModel, abstract_weights, build_model
from jaxengine.sharding import make_mesh
from torch_compat.hf_config import load_model_config

YARN = {
    "rope_type": "yarn", "rope_theta": 10000.0, "factor": 40.0, "original_max_position_embeddings": 16,
    "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 0.707,
}  # fmt: skip
SIZES: dict[str, Any] = {
    "vocab_size": 131, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "max_position_embeddings": 640, "kv_lora_rank": 32, "q_lora_rank": 24,
    "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 12, "moe_intermediate_size": 24,
    "n_routed_experts": 8, "n_shared_experts": 2, "num_experts_per_tok": 3, "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.5,
}  # fmt: skip
EXPERTS = (
    "moe_intermediate_size", "n_routed_experts", "n_shared_experts", "num_experts_per_tok", "first_k_dense_replace",
    "routed_scaling_factor",
)  # fmt: skip
DENSE: dict[str, Any] = dict.fromkeys(EXPERTS)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "v2 lite": ("DeepseekV2", {"q_lora_rank": None, "rope_parameters": YARN | {"mscale": 0.707}}),
    "v2, groups, biases": (
        "DeepseekV2",
        {"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2, "attention_bias": True,
         "rope_parameters": YARN},
    ),
    "v3": (
        "DeepseekV3",
        {"n_group": 4, "topk_group": 2, "norm_topk_prob": True, "n_shared_experts": 1, "rope_parameters": YARN},
    ),
    "v3 without query latents, plain rope, halves": (
        "DeepseekV3",
        {"n_group": 1, "topk_group": 1, "q_lora_rank": None, "attention_bias": True, "rope_interleave": False},
    ),
    "glm 4.7 flash": (
        "Glm4MoeLite",
        {"n_group": 1, "topk_group": 1, "norm_topk_prob": True, "first_k_dense_replace": None, "num_hidden_layers": 3,
         "mlp_layer_types": ["dense", "sparse", "sparse"], "rms_norm_eps": 1e-5},
    ),
    "minicpm 3": ("MiniCPM3", DENSE | {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 16, "v_head_dim": None}),
    "minicpm 3, longrope": (
        "MiniCPM3",
        DENSE | {"rope_parameters": {
            "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0, 1.1, 1.2, 1.3],
            "long_factor": [1.0, 2.0, 3.0, 4.0], "original_max_position_embeddings": 128,
        }},
    ),
    "youtu": ("Youtu", DENSE | {"tie_word_embeddings": True}),
}  # fmt: skip


def config_of(case: str) -> Any:
    family, switches = CASES[case]
    sizes = {k: v for k, v in (SIZES | switches).items() if v is not None or k == "q_lora_rank"}
    return getattr(transformers, f"{family}Config")(**sizes)


@pytest.fixture
def prompts() -> list[list[int]]:
    random = np.random.default_rng(1)
    return [random.integers(0, SIZES["vocab_size"], n).tolist() for n in (13, 31)]


@pytest.mark.parametrize("case", CASES)
def test_same_tokens_as_transformers(case: str, tmp_path: Path, prompts: list[list[int]]) -> None:
    reference = save_transformers_model(tmp_path, config_of(case))
    for name, buffer in reference.named_buffers():
        if name.endswith("e_score_correction_bias"):  # zeros else
            buffer.normal_(std=0.2)
    reference.save_pretrained(tmp_path)
    theirs = transformers_greedy(reference, prompts, steps=24)
    model, weights = load(tmp_path)
    ours = greedy(model, weights, prompts, steps=24, chunk=7)
    np.testing.assert_array_equal(ours[0], theirs[0])
    assert relative_error(ours[1], theirs[1]) < 1e-4


@pytest.mark.parametrize("case", ["v2 lite", "v3"])
def test_heads_are_split_over_devices(case: str, tmp_path: Path, prompts: list[list[int]]) -> None:
    save_transformers_model(tmp_path, config_of(case))
    alone, split = (greedy(*load(tmp_path, tp=tp), prompts, steps=8, chunk=11) for tp in (1, 2))
    np.testing.assert_array_equal(alone[0], split[0])
    assert relative_error(split[1], alone[1]) < 1e-5


@pytest.mark.parametrize("case", ["minicpm 3", "v2 lite", "v3"])
def test_devices_speak_twice_a_layer(case: str, tmp_path: Path, prompts: list[list[int]]) -> None:
    """Latents are made on every device, so attention adds nothing to what any layer says: of the output, of the mlp."""
    config_of(case).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"architectures": [f"{CASES[case][0]}ForCausalLM"]}))
    model = build_model(load_model_config(tmp_path), make_mesh(2), page_size=PAGE)
    pools = tuple(
        jax.ShapeDtypeStruct(spec.shape(16), spec.dtype, sharding=jax.NamedSharding(model.mesh, spec.partition_spec))
        for spec in model.cache_specs()
    )
    table = np.arange(16, dtype=np.int32).reshape(2, 8)
    step = paged_rows([prompts[0][:5], prompts[1][:7]], [0, 0], table, 16, padded=16)
    program = run.lower(model, abstract_weights(model), pools, *step).compile().as_text()
    said = Counter(re.findall(r" (all-[a-z]+|collective-permute|reduce-scatter)(?:-start)?\(", program))
    assert said == {"all-reduce": 1 + 2 * len(pools), "all-gather": 1}  # and the embedding and the logits


def test_a_wrong_weight_is_noticed(tmp_path: Path, prompts: list[list[int]]) -> None:
    """The comparison can fail: with one layer's norm of latents left out, logits differ."""
    reference = save_transformers_model(tmp_path, config_of("v3"))
    theirs = transformers_greedy(reference, prompts, steps=4)
    model, weights = load(tmp_path)
    weights["layers.1.latent_norm"] = weights["layers.1.latent_norm"] * 0 + 1
    assert relative_error(greedy(model, weights, prompts, steps=4)[1], theirs[1]) > 1e-2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}, "quantized with 'fp8'"),
        ({"scoring_func": "softmax"}, "scoring_func='softmax'"),
        ({"moe_layer_freq": 2}, "moe_layer_freq=2"),
    ],
)
def test_what_is_not_served_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    config = config_of("v3").to_dict() | {"architectures": ["DeepseekV3ForCausalLM"]} | change
    (tmp_path / "config.json").write_text(json.dumps(config, default=str))
    with pytest.raises(UnsupportedModel, match=message):
        load_model_config(tmp_path)
