"""Mixtures of experts against transformers: each family's switches, as checkpoints on disk, tokens through pages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from models_harness import greedy, load, relative_error, save_transformers_model, transformers_greedy

from jaxengine.models import UnsupportedModel

SIZES: dict[str, Any] = {
    "vocab_size": 131,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
QWEN = {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 24}
GLM = {
    "head_dim": 16, "n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 24,
    "n_shared_experts": 2, "first_k_dense_replace": 1, "routed_scaling_factor": 1.5, "attention_bias": True,
    "pad_token_id": 0,
}  # fmt: skip
LONG = {
    "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0 + 0.1 * i for i in range(8)],
    "long_factor": [4.0] * 8, "short_mscale": 1.25, "long_mscale": 1.25, "original_max_position_embeddings": 96,
}  # fmt: skip
GRANITE = {
    "embedding_multiplier": 3.0, "residual_multiplier": 0.4, "attention_multiplier": 0.2, "logits_scaling": 2.5,
    "num_local_experts": 6, "num_experts_per_tok": 3, "tie_word_embeddings": True, "pad_token_id": 0,
}  # fmt: skip
GPT_OSS = {
    "head_dim": 16, "num_local_experts": 6, "num_experts_per_tok": 3, "sliding_window": 9, "swiglu_limit": 0.7,
    "rope_parameters": {
        "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0,
        "truncate": False, "original_max_position_embeddings": 32,
    },
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 1.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
LLAMA4 = {
    "head_dim": 16, "intermediate_size_mlp": 40, "num_local_experts": 4, "no_rope_layer_interval": 2,
    "attention_chunk_size": 8, "floor_scale": 5, "attn_scale": 0.3,
}  # fmt: skip
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("Mixtral", {"num_local_experts": 4, "head_dim": 16}),
    "mixtral window": ("Mixtral", {"num_local_experts": 4, "head_dim": 24, "sliding_window": 9}),
    "qwen2, a dense layer": ("Qwen2Moe", QWEN | {"shared_expert_intermediate_size": 40, "mlp_only_layers": [0]}),
    "qwen2, window, renormalised": (
        "Qwen2Moe",
        QWEN | {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1, "norm_topk_prob": True},
    ),
    "qwen3": ("Qwen3Moe", QWEN | {"head_dim": 24, "norm_topk_prob": True}),
    "qwen3, every other layer, tied": (
        "Qwen3Moe",
        QWEN | {"head_dim": 16, "decoder_sparse_step": 2, "tie_word_embeddings": True, "attention_bias": True},
    ),
    "glm 4.5 air": ("Glm4Moe", GLM),
    "glm 4.5, head norms, groups": ("Glm4Moe", GLM | {"use_qk_norm": True, "n_group": 4, "topk_group": 2}),
    "olmoe": ("Olmoe", {"num_experts": 6, "num_experts_per_tok": 3, "norm_topk_prob": True}),
    "dots": (
        "Dots1",
        GLM | {"n_group": 2, "topk_group": 1, "norm_topk_prob": True, "sliding_window": 9, "max_window_layers": 1},
    ),
    "minimax m2": (
        "MiniMaxM2",
        {"num_local_experts": 6, "num_experts_per_tok": 3, "head_dim": 24, "rotary_dim": 12},
    ),
    "phi, longrope, biases": (
        "Phimoe",
        {"num_local_experts": 6, "rope_parameters": LONG, "attention_bias": True, "lm_head_bias": True,
         "router_jitter_noise": 0.2},
    ),
    "gpt-oss": ("GptOss", GPT_OSS),
    "gpt-oss, no window": ("GptOss", GPT_OSS | {"layer_types": ["full_attention"] * 2, "swiglu_limit": 7.0}),
    "llama 4, chunks": ("Llama4Text", LLAMA4),
    "llama 4, dense layers, no head norms, no chunks": (
        "Llama4Text",
        LLAMA4 | {"interleave_moe_layer_step": 2, "use_qk_norm": False, "attention_chunk_size": None,
                  "attn_temperature_tuning": False, "rope_parameters": LLAMA3, "num_experts_per_tok": 2},
    ),
    "granite": ("GraniteMoe", GRANITE),
    "granite, shared expert": ("GraniteMoeShared", GRANITE | {"shared_intermediate_size": 40, "attention_bias": True}),
}  # fmt: skip


def config_of(case: str, **changes: Any) -> Any:
    family, switches = CASES[case]
    return getattr(transformers, f"{family}Config")(**SIZES | switches | changes)


@pytest.fixture
def prompts() -> list[list[int]]:
    random = np.random.default_rng(1)
    return [random.integers(0, SIZES["vocab_size"], n).tolist() for n in (13, 31)]


@pytest.mark.parametrize("case", CASES)
def test_same_tokens_as_transformers(case: str, tmp_path: Path, prompts: list[list[int]]) -> None:
    reference = save_transformers_model(tmp_path, config_of(case))
    theirs = transformers_greedy(reference, prompts, steps=24)
    ours = greedy(*load(tmp_path), prompts, steps=24, chunk=7)
    np.testing.assert_array_equal(ours[0], theirs[0])
    assert relative_error(ours[1], theirs[1]) < 1e-4


@pytest.mark.parametrize("tp", [1, 2])
def test_gpt_oss_in_mxfp4(tp: int, tmp_path: Path, prompts: list[list[int]]) -> None:
    import torch
    from safetensors.numpy import load_file, save_file
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    reference = save_transformers_model(tmp_path, config_of("gpt-oss", intermediate_size=64))
    tensors, random = load_file(tmp_path / "model.safetensors"), np.random.default_rng(0)
    for i, layer in enumerate(reference.model.layers):
        for name in ("gate_up_proj", "down_proj"):
            parameter, stored = getattr(layer.mlp.experts, name), f"model.layers.{i}.mlp.experts.{name}"
            X, inputs, outputs = parameter.shape
            blocks = random.integers(0, 256, (X, outputs, inputs // 32, 16), np.uint8)
            scales = random.integers(122, 126, blocks.shape[:-1], np.uint8)
            del tensors[stored]
            tensors |= {f"{stored}_blocks": blocks, f"{stored}_scales": scales}
            unpacked = convert_moe_packed_tensors(*map(torch.from_numpy, (blocks, scales)), dtype=torch.float32)
            parameter.data.copy_(unpacked)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    stated = json.loads((tmp_path / "config.json").read_text())
    stated["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}
    (tmp_path / "config.json").write_text(json.dumps(stated))
    theirs = transformers_greedy(reference, prompts, steps=8)
    ours = greedy(*load(tmp_path, tp=tp), prompts, steps=8, chunk=7)
    np.testing.assert_array_equal(ours[0], theirs[0])
    assert relative_error(ours[1], theirs[1]) < 1e-4


@pytest.mark.parametrize("case", ["qwen2, a dense layer", "gpt-oss", "granite"])
def test_same_tokens_on_several_devices(case: str, tmp_path: Path, prompts: list[list[int]]) -> None:
    save_transformers_model(tmp_path, config_of(case))
    one, two = (greedy(*load(tmp_path, tp=tp), prompts, steps=8, chunk=7) for tp in (1, 2))
    np.testing.assert_array_equal(one[0], two[0])
    assert relative_error(one[1], two[1]) < 1e-4


def test_llama_4_within_the_model_that_also_sees(tmp_path: Path, prompts: list[list[int]]) -> None:
    from transformers import Llama4Config, Llama4VisionConfig

    sizes = ("hidden_size", "vision_output_dim", "projector_input_dim", "projector_output_dim", "intermediate_size")
    eyes = Llama4VisionConfig(
        **dict.fromkeys(sizes, 16), num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4
    )
    config = Llama4Config(text_config=config_of("llama 4, chunks"), vision_config=eyes)
    whole = save_transformers_model(tmp_path, config)
    theirs = transformers_greedy(whole.language_model, prompts, steps=4)
    ours = greedy(*load(tmp_path), prompts, steps=4, chunk=7)
    np.testing.assert_array_equal(ours[0], theirs[0])
    assert relative_error(ours[1], theirs[1]) < 1e-4


def test_chunks_want_whole_pages(tmp_path: Path) -> None:
    save_transformers_model(tmp_path, config_of("llama 4, chunks", attention_chunk_size=10))
    with pytest.raises(UnsupportedModel, match="block_size=4 does not divide this model's attention chunks of 10"):
        load(tmp_path)


def test_other_quantized_checkpoints_are_refused(tmp_path: Path) -> None:
    config = config_of("qwen3").to_dict() | {"architectures": ["Qwen3MoeForCausalLM"]}
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "mxfp4"}}))
    with pytest.raises(UnsupportedModel, match="quantized with 'mxfp4'"):
        load(tmp_path)
