"""config.json and checkpoints of models with recurrent layers as released, not as transformers 5 saves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxengine.layers.mamba2 import MambaSizes
from jaxengine.layers.short_conv import ConvSizes
from jaxengine.models import ModelConfig, UnsupportedModel, build_model
from jaxengine.sharding import make_mesh
from torch_compat.checkpoint import CheckpointError
from torch_compat.hf_config import load_model_config
from torch_compat.weights import load_weights

NEMOTRON = {  # nvidia/Nemotron-H-8B-Base-8K
    "architectures": ["NemotronHForCausalLM"], "hybrid_override_pattern": "M-M-M-M*-M-", "num_hidden_layers": 11,
    "hidden_size": 4096, "intermediate_size": 21504, "num_attention_heads": 32, "num_key_value_heads": 8,
    "attention_head_dim": 128, "mamba_num_heads": 128, "mamba_head_dim": 64, "n_groups": 8, "ssm_state_size": 128,
    "conv_kernel": 4, "layer_norm_epsilon": 1e-5, "mlp_hidden_act": "relu2", "vocab_size": 131072,
    "time_step_limit": [0.0, float("inf")], "max_position_embeddings": 8192,
}  # fmt: skip
GRANITE = {  # ibm-granite/granite-4.0-h-small
    "architectures": ["GraniteMoeHybridForCausalLM"], "layer_types": ["mamba", "mamba", "attention", "mamba"],
    "num_hidden_layers": 4, "hidden_size": 4096, "intermediate_size": 768, "shared_intermediate_size": 1536,
    "num_attention_heads": 32, "num_key_value_heads": 8, "num_local_experts": 72, "num_experts_per_tok": 10,
    "mamba_n_heads": 128, "mamba_d_head": 64, "mamba_d_state": 128, "position_embedding_type": "nope",
    "embedding_multiplier": 12, "attention_multiplier": 0.0078125, "residual_multiplier": 0.22, "logits_scaling": 16,
    "rms_norm_eps": 1e-5, "vocab_size": 100352, "max_position_embeddings": 131072, "tie_word_embeddings": True,
}  # fmt: skip
LFM2 = {  # LiquidAI/LFM2-1.2B
    "architectures": ["Lfm2ForCausalLM"], "block_ff_dim": 12288, "block_auto_adjust_ff_dim": True,
    "block_ffn_dim_multiplier": 1.0, "block_multiple_of": 256, "full_attn_idxs": [2, 5], "num_hidden_layers": 6,
    "hidden_size": 2048, "intermediate_size": 12288, "num_attention_heads": 32, "num_key_value_heads": 8,
    "norm_eps": 1e-5, "rope_theta": 1e6, "conv_L_cache": 3, "conv_bias": False, "vocab_size": 65536,
    "tie_embedding": True,
}  # fmt: skip
QWEN = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 40, "max_position_embeddings": 64,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "rope_parameters": {"rope_theta": 1e7, "mrope_section": [1, 1, 0], "mrope_interleaved": True},
}  # fmt: skip


def read(directory: Path, config: dict[str, Any]) -> ModelConfig:
    (directory / "config.json").write_text(json.dumps(config))
    return load_model_config(directory)


def test_nemotron_h_by_letters(tmp_path: Path) -> None:
    config = read(tmp_path, NEMOTRON)
    assert config.num_layers == 11
    assert config.mixers == ("recurrent", "") * 3 + ("recurrent", "attention", "", "recurrent", "")
    assert config.feed_forwards == (False, True) * 3 + (False, False, True, False, True)
    assert (config.head_dim, config.activation, config.gated, config.norm_eps) == (128, "relu2", False, 1e-5)
    assert config.recurrent == MambaSizes(heads=128, head_dim=64, groups=8, state_size=128)
    assert config.rope.turning == 0


def test_nemotron_h_experts(tmp_path: Path) -> None:
    experts = {
        "hybrid_override_pattern": "ME*E", "n_routed_experts": 128, "moe_intermediate_size": 1856,
        "moe_shared_expert_intermediate_size": 3712, "num_experts_per_tok": 6, "routed_scaling_factor": 2.5,
    }  # fmt: skip
    config = read(tmp_path, NEMOTRON | experts)
    assert config.mixture is not None
    assert (config.mixture.layers, config.mixers) == ((False, True, False, True), ("recurrent", "", "attention", ""))
    with pytest.raises(UnsupportedModel, match="moe_latent_size=1024 is not supported"):
        read(tmp_path, NEMOTRON | experts | {"moe_latent_size": 1024})


def test_an_unknown_kind_of_layer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="layers of type 'X' are not supported"):
        read(tmp_path, NEMOTRON | {"hybrid_override_pattern": "MX"})


def test_granite_4(tmp_path: Path) -> None:
    config = read(tmp_path, GRANITE)
    assert config.mixers == ("recurrent", "recurrent", "attention", "recurrent")
    assert config.recurrent == MambaSizes(heads=128, head_dim=64, groups=1, state_size=128)
    assert config.mixture is not None
    assert (config.mixture.mlp_size, config.mixture.shared_size, config.mixture.router.top_k) == (768, 1536, 10)
    assert (config.embed_scale, config.logits_scale, config.rope.turning) == (12, 1 / 16, 0)


def test_lfm2(tmp_path: Path) -> None:
    config = read(tmp_path, LFM2)
    assert config.mixers == ("recurrent", "recurrent", "attention", "recurrent", "recurrent", "attention")
    assert (config.mlp_size, config.tie_embeddings, config.recurrent) == (8192, True, ConvSizes(width=3))


@pytest.mark.parametrize("limit", [[0.0, float("inf")], [0.0, {"__float__": "Infinity"}], None])
def test_an_infinite_limit_however_it_is_written(limit: Any, tmp_path: Path) -> None:
    config = read(tmp_path, NEMOTRON | {"time_step_limit": limit})
    assert isinstance(config.recurrent, MambaSizes)
    assert config.recurrent.dt_limit == (0.0, float("inf"))


def test_qwen3_5_within_a_model_that_sees(tmp_path: Path) -> None:
    """The names of the released checkpoints; what sees, and the head that drafts tokens, are left alone."""
    random = np.random.default_rng(0)
    text = tmp_path / "text"
    text.mkdir()
    shapes = {"embed_tokens": (40, 32), "norm": (32,)}
    for i in range(4):
        shapes |= {f"layers.{i}.{name}": shape for name, shape in layer(attends=i == 3).items()}
    tensors = {f"model.{name}": random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    tensors = {name if name.endswith(("A_log", "dt_bias")) else f"{name}.weight": x for name, x in tensors.items()}
    tensors["lm_head.weight"] = random.standard_normal((40, 32)).astype(np.float32)
    (text / "config.json").write_text(json.dumps(QWEN | {"architectures": ["Qwen3_5ForCausalLM"]}))
    save_file(tensors, text / "model.safetensors")
    seeing = {name.replace("model.", "model.language_model.", 1): x for name, x in tensors.items()}
    extra = {name: np.zeros(3, np.float32) for name in ("model.visual.blocks.0.norm1.weight", "mtp.fc.weight")}
    (tmp_path / "config.json").write_text(
        json.dumps({"architectures": ["Qwen3_5ForConditionalGeneration"], "text_config": QWEN})
    )
    save_file(seeing | extra, tmp_path / "model.safetensors")
    ours, same = (loaded(directory) for directory in (text, tmp_path))
    assert set(ours) == set(same)
    for name, array in ours.items():
        np.testing.assert_array_equal(array, same[name])
    save_file(tensors | {"model.layers.0.linear_attn.conv1d.bias": np.zeros(3, np.float32)}, text / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"conv1d\.bias"):
        loaded(text)


def layer(attends: bool) -> dict[str, tuple[int, ...]]:
    """Names of a layer's tensors, but for .weight, and their shapes."""
    common = {"input_layernorm": (32,), "post_attention_layernorm": (32,)}
    common |= {"mlp.gate_proj": (48, 32), "mlp.up_proj": (48, 32), "mlp.down_proj": (32, 48)}
    if attends:
        names = {"q_proj": (64, 32), "k_proj": (16, 32), "v_proj": (16, 32), "o_proj": (32, 32)}
        return common | {f"self_attn.{n}": s for n, s in (names | {"q_norm": (16,), "k_norm": (16,)}).items()}
    names = {"A_log": (4,), "dt_bias": (4,), "conv1d": (64, 1, 4), "norm": (8,), "out_proj": (32, 32)}
    names |= {"in_proj_qkv": (64, 32), "in_proj_z": (32, 32), "in_proj_b": (4, 32), "in_proj_a": (4, 32)}
    return common | {f"linear_attn.{name}": shape for name, shape in names.items()}


def loaded(directory: Path) -> dict[str, Any]:
    return load_weights(build_model(load_model_config(directory), make_mesh(1)), directory, progress=False)
