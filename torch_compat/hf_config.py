"""config.json and generation_config.json, as transformers 4 and 5 write them → ModelConfig and GenerationDefaults.

Called by build.py. Knows transformers' keys and defaults; `families.py` has those that differ by family.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxengine.layers.linear import ACTIVATIONS
from jaxengine.layers.rope import Rope, yarn_attention_factor
from jaxengine.models import ModelConfig, UnsupportedModel, check_supported
from torch_compat.checkpoint import read_header
from torch_compat.families import FAMILIES

REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
SAMPLING_DEFAULTS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_new_tokens")

_DTYPES = {"half": "float16", "float": "float32"} | {name: name for name in ("bfloat16", "float16", "float32")}


@dataclass(frozen=True)
class GenerationDefaults:
    """What the model's authors recommend; None where they say nothing."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_new_tokens: int | None = None
    eos_token_ids: tuple[int, ...] = ()  # of generation_config.json and config.json together
    bos_token_id: int | None = None
    pad_token_id: int | None = None


def read_config(path: Path, hf_overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """config.json as a dict; each key of hf_overrides replaces the one in the file, whole. Raises UnsupportedModel."""
    file = Path(path) / "config.json"
    try:
        return json.loads(file.read_text()) | dict(hf_overrides or {})
    except FileNotFoundError:
        raise UnsupportedModel(f"{file}: no such file.") from None
    except ValueError as error:
        raise UnsupportedModel(f"{file}: not JSON ({error}).") from None


def load_model_config(path: Path, dtype: str = "auto", hf_overrides: Mapping[str, Any] | None = None) -> ModelConfig:
    """The decoder that config.json describes.

    dtype: "auto" is float32 on a CPU, whose 16-bit products are emulated and many times slower; on a GPU it is the
    checkpoint's, or bfloat16 for a float32 checkpoint. Raises UnsupportedModel for an unknown architecture, activation,
    RoPE scaling or quantization.
    """
    hf = read_config(path, hf_overrides)
    architecture = next(iter(hf.get("architectures") or ["(none)"]))
    check_supported(architecture)
    if hf.get("quantization_config"):
        method = hf["quantization_config"].get("quant_method", "unknown")
        raise UnsupportedModel(f"{path}: checkpoints quantized with {method!r} are not supported yet.")
    family = FAMILIES[architecture]
    hf = family.defaults | hf
    for name in REQUIRED:
        if hf.get(name) is None:
            raise UnsupportedModel(f"{Path(path) / 'config.json'}: lacks {name!r}.")
        if not isinstance(hf[name], int) or hf[name] < 1:
            raise UnsupportedModel(f"{Path(path) / 'config.json'}: {name!r} is {hf[name]!r}; give a number above 0.")
    heads, hidden, layers = hf["num_attention_heads"], hf["hidden_size"], hf["num_hidden_layers"]
    activation = hf.get("hidden_act", "silu")
    if activation not in ACTIVATIONS:
        raise UnsupportedModel(f"hidden_act={activation!r} is not supported; supported are {', '.join(ACTIVATIONS)}.")
    head_dim = hf.get("head_dim") or hidden // heads
    attention_bias = bool(hf.get("attention_bias"))
    switches = {"qkv_bias": attention_bias, "o_bias": attention_bias, "mlp_bias": bool(hf.get("mlp_bias"))}
    return ModelConfig(
        architecture=architecture,
        vocab_size=hf["vocab_size"],
        hidden_size=hidden,
        mlp_size=hf["intermediate_size"],
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=hf.get("num_key_value_heads") or heads,
        head_dim=head_dim,
        rope=_rope(hf, head_dim),
        max_position_embeddings=hf["max_position_embeddings"],
        norm_eps=hf.get("rms_norm_eps", 1e-6),
        activation=activation,
        windows=_windows(hf, architecture),
        tie_embeddings=bool(hf.get("tie_word_embeddings", False)),
        dtype=_dtype(dtype, hf, Path(path)),
        **(switches | family.implied),
    )


def load_generation_defaults(
    path: Path,
    generation_config: str = "auto",
    override: Mapping[str, Any] | None = None,
    hf_overrides: Mapping[str, Any] | None = None,
) -> GenerationDefaults:
    """What generation_config.json recommends, if there is one. End-of-sequence ids are those of both files together.

    generation_config: "auto" reads the model's own, "vllm" takes only its token ids, else a directory to read it from.
    override: values that replace those of the file.
    """
    config = read_config(path, hf_overrides)
    directory = Path(path) if generation_config in ("auto", "vllm") else Path(generation_config)
    file = directory / "generation_config.json"
    if directory != Path(path) and not file.exists():
        raise UnsupportedModel(
            f"generation_config={generation_config!r} is not auto, vllm or a directory with {file.name}."
        )
    generation = json.loads(file.read_text()) if file.exists() else {}
    generation = {name: value for name, value in generation.items() if value is not None}
    recommended = ({} if generation_config == "vllm" else generation) | dict(override or {})
    tokens = config | generation | dict(override or {})
    eos = [*_ids(config.get("eos_token_id")), *_ids(tokens.get("eos_token_id"))]
    return GenerationDefaults(
        **{name: recommended.get(name) for name in SAMPLING_DEFAULTS},
        eos_token_ids=tuple(dict.fromkeys(eos)),
        bos_token_id=tokens.get("bos_token_id"),
        pad_token_id=tokens.get("pad_token_id"),
    )


def _rope(hf: Mapping[str, Any], head_dim: int) -> Rope:
    """rope_theta and rope_scaling (transformers 4), or rope_parameters (transformers 5); rope_scaling wins over it."""
    new, scaling = hf.get("rope_parameters") or {}, hf.get("rope_scaling") or {}
    stated = scaling or new
    kind = stated.get("rope_type") or stated.get("type") or "default"
    theta = stated.get("rope_theta") or hf.get("rope_theta") or new.get("rope_theta") or 10000.0
    if stated.get("partial_rotary_factor", hf.get("partial_rotary_factor") or 1.0) != 1.0:
        raise UnsupportedModel("partial_rotary_factor other than 1 is not supported for this architecture.")
    plain = Rope(head_dim=head_dim, theta=float(theta))
    trained = hf["max_position_embeddings"]
    original = hf.get("original_max_position_embeddings") or stated.get("original_max_position_embeddings") or trained
    match kind:
        case "default":
            return plain
        case "linear":
            return replace(plain, kind="linear", factor=_number(stated, "factor"))
        case "dynamic":
            return replace(plain, kind="dynamic", factor=_number(stated, "factor"), original_length=trained)
        case "llama3":
            return replace(
                plain,
                kind="llama3",
                factor=_number(stated, "factor"),
                low_freq_factor=_number(stated, "low_freq_factor"),
                high_freq_factor=_number(stated, "high_freq_factor"),
                original_length=original,
            )
        case "yarn":
            factor = float(stated.get("factor") or trained / original)
            attention = stated.get("attention_factor")
            if attention is None:
                attention = yarn_attention_factor(factor, stated.get("mscale"), stated.get("mscale_all_dim"))
            return replace(
                plain,
                kind="yarn",
                factor=factor,
                original_length=original,
                beta_fast=stated.get("beta_fast") or 32.0,
                beta_slow=stated.get("beta_slow") or 1.0,
                truncate=stated.get("truncate", True),
                attention_factor=attention,
            )
        case _:
            raise UnsupportedModel(
                f"RoPE scaling {kind!r} is not supported; supported are default, linear, dynamic, llama3, yarn."
            )


def _windows(hf: Mapping[str, Any], architecture: str) -> tuple[int | None, ...]:
    """Sliding window per layer; empty where no layer has one."""
    window, layers = hf.get("sliding_window"), hf["num_hidden_layers"]
    if architecture == "LlamaForCausalLM" or window is None:
        return ()
    if architecture == "MistralForCausalLM":
        return (window,) * layers
    if not hf.get("use_sliding_window"):
        return ()
    first = hf.get("max_window_layers", 28)
    types = hf.get("layer_types") or ["sliding_attention" if i >= first else "full_attention" for i in range(layers)]
    return tuple(window if kind == "sliding_attention" else None for kind in types[:layers])


def _dtype(asked: str, hf: Mapping[str, Any], path: Path) -> jnp.dtype:
    if asked != "auto":
        if asked not in _DTYPES:
            raise UnsupportedModel(f"dtype={asked!r} is not one of auto, {', '.join(_DTYPES)}.")
        return jnp.dtype(_DTYPES[asked])
    if jax.default_backend() == "cpu":
        return jnp.dtype("float32")
    name = hf.get("dtype") or hf.get("torch_dtype") or _stored_dtype(path)
    return jnp.dtype(name if name in ("bfloat16", "float16") else "bfloat16")


def _stored_dtype(path: Path) -> str:
    """Dtype of the first tensor on disk, for a config.json that states none."""
    for file in sorted(path.glob("*.safetensors")):
        for tensor in read_header(file).values():
            return tensor.dtype.name
    return "bfloat16"


def _number(stated: Mapping[str, Any], name: str) -> float:
    if stated.get(name) is None:
        raise UnsupportedModel(f"config.json: RoPE scaling {dict(stated)} lacks {name!r}.")
    return float(stated[name])


def _ids(value: int | list[int] | None) -> list[int]:
    return [] if value is None else [value] if isinstance(value, int) else list(value)
