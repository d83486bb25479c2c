"""config.json as transformers 4 and 5 write it, overrides, generation defaults, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from jaxengine.models import ModelConfig, UnsupportedModel
from torch_compat.families import FAMILIES
from torch_compat.hf_config import REQUIRED, load_generation_defaults, load_model_config

# Whose defaults make no model that we know.
WITHOUT_DEFAULTS = ("PhiMoEForCausalLM", "DeepseekV2ForCausalLM", "NemotronHForCausalLM", "Dots1ForCausalLM")
LLAMA: dict[str, Any] = {  # Llama 3.1 8B, as on the hub
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008],
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 8.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
}
QWEN2: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "max_window_layers": 21,
    "sliding_window": 32768,
    "use_sliding_window": False,
    "tie_word_embeddings": True,
    "rope_theta": 1000000.0,
    "torch_dtype": "bfloat16",
    "vocab_size": 151936,
}


def write(directory: Path, config: dict[str, Any], generation: dict[str, Any] | None = None) -> Path:
    (directory / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (directory / "generation_config.json").write_text(json.dumps(generation))
    return directory


def test_transformers_4_spelling(tmp_path: Path) -> None:
    config = load_model_config(write(tmp_path, LLAMA))
    assert (config.num_heads, config.num_kv_heads, config.head_dim, config.mlp_size) == (32, 8, 128, 14336)
    assert config.rope.theta == 500000.0
    assert config.rope.original_length == 8192
    assert config.max_length == 131072
    assert not any((config.qkv_bias, config.qk_norm, config.tie_embeddings, config.windows))


def test_transformers_5_spelling_means_the_same(tmp_path: Path) -> None:
    old = load_model_config(write(tmp_path, LLAMA))
    new = {key: value for key, value in LLAMA.items() if key not in ("rope_scaling", "rope_theta", "torch_dtype")}
    new |= {"rope_parameters": LLAMA["rope_scaling"] | {"rope_theta": 500000.0}, "dtype": "bfloat16"}
    assert load_model_config(write(tmp_path, new)) == old


def test_old_name_of_the_rope_type(tmp_path: Path) -> None:
    config = load_model_config(write(tmp_path, LLAMA | {"rope_scaling": {"type": "linear", "factor": 2.0}}))
    assert (config.rope.kind, config.rope.factor, config.max_length) == ("linear", 2.0, 262144)


@pytest.mark.parametrize(
    ("changes", "windows"),
    [
        ({}, ()),
        ({"use_sliding_window": True}, (None,) * 21 + (32768,) * 3),
        ({"use_sliding_window": True, "sliding_window": None}, ()),
        (
            {"use_sliding_window": True, "layer_types": ["sliding_attention", "full_attention"] * 12},
            (32768, None) * 12,
        ),
    ],
)
def test_qwen_windows(changes: dict[str, Any], windows: tuple[int | None, ...], tmp_path: Path) -> None:
    config = load_model_config(write(tmp_path, QWEN2 | changes))
    assert config.windows == windows
    assert config.qkv_bias
    assert not config.o_bias
    assert config.tie_embeddings


@pytest.mark.parametrize("architecture", sorted(set(FAMILIES) - set(WITHOUT_DEFAULTS)))
def test_what_families_leave_out(architecture: str, tmp_path: Path) -> None:
    """Releases from before a key was there omit it, and transformers 4 saved nothing that equals a default."""
    family = FAMILIES[architecture]
    theirs = getattr(transformers, architecture).config_class()
    theirs = type(theirs.get_text_config())()
    every = json.loads(theirs.to_json_string(use_diff=False))
    sizes = {theirs.attribute_map.get(name, name) for name in (*REQUIRED, "ffn_dim")}

    def read(config: dict[str, Any]) -> ModelConfig:
        config = {"text_config": config} if family.text_part else config
        return load_model_config(write(tmp_path, config | {"architectures": [architecture]}))

    assert read({name: value for name, value in every.items() if name in sizes}) == read(every)


def test_experts_without_a_number_are_refused(tmp_path: Path) -> None:
    config = transformers.Dots1Config().to_dict() | {"architectures": ["Dots1ForCausalLM"], "n_routed_experts": None}
    with pytest.raises(UnsupportedModel, match=r"lacks 'n_routed_experts'\.$"):
        load_model_config(write(tmp_path, config))


def test_what_releases_leave_out(tmp_path: Path) -> None:
    mistral = {key: value for key, value in LLAMA.items() if "rope" not in key} | {
        "architectures": ["MistralForCausalLM"]
    }
    assert load_model_config(write(tmp_path, mistral)).windows == (4096,) * 32
    assert load_model_config(write(tmp_path, mistral)).window(0) == 4096
    short = load_model_config(write(tmp_path, mistral | {"max_position_embeddings": 4096}))
    assert short.window(0) is None  # it shows everything, so nothing is kept apart for it
    assert load_model_config(write(tmp_path, mistral | {"sliding_window": None})).windows == ()
    qwen3 = {key: value for key, value in QWEN2.items() if key != "rope_theta"} | {
        "architectures": ["Qwen3ForCausalLM"]
    }
    assert load_model_config(write(tmp_path, qwen3)).head_dim == 128
    assert load_model_config(write(tmp_path, qwen3)).rope.theta == 10000.0


ROPES: list[dict[str, Any]] = [
    {"rope_type": "linear", "factor": 3.0},
    LLAMA["rope_scaling"],
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096},
    {"rope_type": "yarn", "factor": 4.0},
    {
        "rope_type": "yarn",
        "factor": 40.0,
        "original_max_position_embeddings": 4096,
        "mscale": 0.7,
        "mscale_all_dim": 1.0,
    },
    {
        "rope_type": "yarn",
        "factor": 8.0,
        "beta_fast": 20.0,
        "beta_slow": 0.5,
        "attention_factor": 0.9,
        "truncate": False,
    },
]


@pytest.mark.parametrize("rope", ROPES, ids=lambda rope: "-".join(map(str, rope.values())))
@pytest.mark.parametrize("theta", [10000.0, 1000000.0])
def test_frequencies_equal_those_of_transformers(rope: dict[str, Any], theta: float, tmp_path: Path) -> None:
    theirs = transformers.LlamaConfig(
        rope_parameters=rope | {"rope_theta": theta}, head_dim=64, max_position_embeddings=32768
    )
    theirs.architectures = ["LlamaForCausalLM"]
    theirs.save_pretrained(tmp_path)
    ours = load_model_config(tmp_path, "float32").rope
    expected, attention_factor = ROPE_INIT_FUNCTIONS[rope["rope_type"]](theirs)
    np.testing.assert_allclose(ours.frequencies(), expected.numpy(), rtol=2e-6)
    assert ours.attention_factor == pytest.approx(attention_factor)


def test_overrides_replace_whole_keys(tmp_path: Path) -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    config = load_model_config(write(tmp_path, QWEN2), hf_overrides={"rope_scaling": yarn, "num_hidden_layers": 3})
    assert (config.rope.kind, config.num_layers, config.max_length) == ("yarn", 3, 131072)
    assert config.rope.theta == 1000000.0


@pytest.mark.parametrize(
    ("asked", "stored", "expected"),
    [
        ("auto", "bfloat16", "float32"),
        ("auto", "float16", "float32"),
        ("auto", "float32", "float32"),
        ("bfloat16", "float32", "bfloat16"),
        ("half", "bfloat16", "float16"),
        ("float", "bfloat16", "float32"),
        ("float32", "bfloat16", "float32"),
    ],
)
def test_dtype_on_a_cpu(asked: str, stored: str, expected: str, tmp_path: Path) -> None:
    assert load_model_config(write(tmp_path, LLAMA | {"torch_dtype": stored}), asked).dtype == expected


@pytest.mark.parametrize(
    ("stored", "expected"), [("bfloat16", "bfloat16"), ("float16", "float16"), ("float32", "bfloat16")]
)
def test_a_gpu_computes_in_16_bits(stored: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    path = write(tmp_path, LLAMA | {"torch_dtype": stored})
    assert load_model_config(path).dtype == expected
    assert load_model_config(path, "float32").dtype == "float32"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["BertModel"]}, "architecture 'BertModel' has no native decoder; `jaxengine models` lists"),
        ({"architectures": None}, r"architecture '\(none\)' has no native decoder"),
        ({"hidden_act": "quick_gelu"}, "hidden_act='quick_gelu' is not supported; supported are silu"),
        ({"rope_scaling": {"rope_type": "spiral"}}, "RoPE scaling 'spiral' is not supported"),
        ({"rope_scaling": {"rope_type": "linear"}}, "lacks 'factor'"),
        ({"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0]}}, "longrope wants short_factor and"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantized with 'awq' are not supported"),
        ({"hidden_size": None}, "lacks 'hidden_size'"),
        ({"hidden_size": 0}, "'hidden_size' is 0"),
        ({"vocab_size": "many"}, "'vocab_size' is 'many'"),
    ],
)
def test_refuses_in_one_line(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=message) as error:
        load_model_config(write(tmp_path, LLAMA | changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("GemmaForCausalLM", {"use_bidirectional_attention": True}, "for GemmaForCausalLM; use False or None"),
        ("PhiForCausalLM", {"qk_layernorm": True}, "qk_layernorm=True is not supported for PhiForCausalLM; use False"),
        ("GPT2LMHeadModel", {"reorder_and_upcast_attn": True}, "reorder_and_upcast_attn=True is not supported"),
    ],
)
def test_refuses_switches_of_a_family(architecture: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        load_model_config(write(tmp_path, LLAMA | {"architectures": [architecture]} | changes))


GEMMA3: dict[str, Any] = {  # 4B, as on the hub
    "architectures": ["Gemma3ForConditionalGeneration"],
    "eos_token_id": [1, 106],
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "torch_dtype": "bfloat16",
    "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model"},
}


def test_gemma_3_as_released(tmp_path: Path) -> None:
    config = load_model_config(write(tmp_path, GEMMA3))
    assert (config.vocab_size, config.num_heads, config.num_kv_heads, config.head_dim) == (262208, 8, 4, 256)
    assert config.windows[:7] == (1024,) * 5 + (None, 1024)
    local, everywhere = config.layer_rope(0), config.layer_rope(5)
    assert (local.theta, local.kind, everywhere.theta, everywhere.factor) == (10000.0, "default", 1000000.0, 8.0)
    assert config.max_length == 131072
    assert config.tie_embeddings
    assert load_generation_defaults(tmp_path).eos_token_ids == (1, 106)


def test_gemma_3_spelt_by_transformers_5(tmp_path: Path) -> None:
    old = load_model_config(write(tmp_path, GEMMA3))
    text = {name: value for name, value in GEMMA3["text_config"].items() if name != "rope_scaling"}
    theirs = transformers.Gemma3TextConfig(**text, rope_scaling={"factor": 8.0, "rope_type": "linear"})
    new = json.loads(theirs.to_json_string())
    assert "rope_scaling" not in new
    assert load_model_config(write(tmp_path, GEMMA3 | {"text_config": new})) == old


def test_qwen_2_5_vl_as_released(tmp_path: Path) -> None:
    """Its text has no part of its own, and its rotation by three axes is called a scaling."""
    seeing = {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "vision_config": {"hidden_size": 1280, "num_heads": 16},
    }
    plain, seen = (load_model_config(write(tmp_path, QWEN2 | changes)) for changes in ({}, seeing))
    assert dataclasses.replace(seen, architecture=plain.architecture, norm_eps=plain.norm_eps) == plain


@pytest.mark.parametrize("name", ["type", "rope_type"])
@pytest.mark.parametrize("kind", ["longrope", "su", "yarn"])
def test_all_names_of_longrope_in_phi_3(kind: str, name: str, tmp_path: Path) -> None:
    scaling = {name: kind, "short_factor": [1.0] * 64, "long_factor": [2.0] * 64}
    phi3 = {"architectures": ["Phi3ForCausalLM"], "rope_scaling": scaling}
    config = load_model_config(write(tmp_path, LLAMA | phi3))
    assert (config.rope.kind, config.rope.original_length, config.max_length) == ("longrope", 4096, 131072)


def test_windows_spelt_in_letters(tmp_path: Path) -> None:
    exaone = {"architectures": ["Exaone4ForCausalLM"], "sliding_window_pattern": "LLLG", "num_hidden_layers": 6}
    config = load_model_config(write(tmp_path, LLAMA | exaone | {"sliding_window": 4096}))
    assert config.windows == (4096, 4096, 4096, None, 4096, None)
    assert [config.layer_rope(i).kind for i in (2, 3)] == ["llama3", "none"]


def test_refuses_unknown_dtypes_and_files(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="no such file"):
        load_model_config(tmp_path)
    with pytest.raises(UnsupportedModel, match="dtype='int4' is not one of auto, half"):
        load_model_config(write(tmp_path, LLAMA), "int4")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UnsupportedModel, match="not JSON"):
        load_model_config(tmp_path)


GENERATION = {"temperature": 0.6, "top_p": 0.9, "eos_token_id": [128009, 128008], "bos_token_id": None}


def test_generation_defaults(tmp_path: Path) -> None:
    defaults = load_generation_defaults(write(tmp_path, LLAMA, GENERATION))
    assert (defaults.temperature, defaults.top_p, defaults.top_k) == (0.6, 0.9, None)
    assert defaults.eos_token_ids == (128001, 128008, 128009)
    assert defaults.bos_token_id == 128000


def test_neutral_generation_defaults_keep_the_end_tokens(tmp_path: Path) -> None:
    path = write(tmp_path, LLAMA, GENERATION)
    defaults = load_generation_defaults(path, "vllm", override={"top_k": 7})
    assert (defaults.temperature, defaults.top_k) == (None, 7)
    assert 128009 in defaults.eos_token_ids


def test_generation_defaults_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    write(tmp_path, LLAMA)
    with pytest.raises(UnsupportedModel, match=r"is not auto, vllm or a directory with generation_config\.json"):
        load_generation_defaults(tmp_path, str(tmp_path / "other"))
    write(tmp_path / "other", {}, {"temperature": 0.2})
    assert load_generation_defaults(tmp_path, str(tmp_path / "other")).temperature == 0.2


def test_no_generation_config(tmp_path: Path) -> None:
    assert load_generation_defaults(write(tmp_path, QWEN2 | {"eos_token_id": 5})).eos_token_ids == (5,)
