"""config.json and generation_config.json, as transformers 4 and 5 write them → ModelConfig and GenerationDefaults.

Called by build.py. Knows transformers' keys and defaults; `families.py` has those that differ by family.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxengine.layers.linear import ACTIVATIONS
from jaxengine.models import ModelConfig, UnsupportedModel
from torch_compat.checkpoint import read_header
from torch_compat.families import FAMILIES
from torch_compat.hf_rope import read_rope

logger = logging.getLogger(__name__)

OF_THE_WHOLE = ("dtype", "torch_dtype", "tie_word_embeddings")  # what a model around a language model says of both
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
    if architecture not in FAMILIES:
        raise UnsupportedModel(
            f"architecture {architecture!r} has no native decoder; `jaxengine models` lists those that have."
        )
    method = (hf.get("quantization_config") or {}).get("quant_method", "unknown")
    if hf.get("quantization_config") and method not in FAMILIES[architecture].quantized:
        raise UnsupportedModel(f"{path}: checkpoints quantized with {method!r} are not supported yet.")
    family = FAMILIES[architecture]
    if family.text_part:
        logger.info("%s is served for text alone: the parts of it that see are not read.", architecture)
        whole = {name: hf[name] for name in OF_THE_WHOLE if hf.get(name) is not None}
        hf = (hf.get("text_config") or hf) | whole | dict(hf_overrides or {})  # some have no part of its own for it
    hf = dict(family.defaults) | hf
    for name, served in family.only.items():
        if hf.get(name, served[0]) not in served:
            raise UnsupportedModel(
                f"{name}={hf[name]!r} is not supported for {architecture}; use {' or '.join(map(repr, served))}."
            )
    hf = hf | family.words(hf)
    for name in REQUIRED:
        if hf.get(name) is None:
            raise UnsupportedModel(f"{Path(path) / 'config.json'}: lacks {name!r}.")
        if not isinstance(hf[name], int) or hf[name] < 1:
            raise UnsupportedModel(f"{Path(path) / 'config.json'}: {name!r} is {hf[name]!r}; give a number above 0.")
    heads, hidden = hf["num_attention_heads"], hf["hidden_size"]
    head_dim = hf.get("head_dim") or hidden // heads
    attention_bias = bool(hf.get("attention_bias"))
    common = {
        "num_kv_heads": hf.get("num_key_value_heads") or heads,
        "head_dim": head_dim,
        "rope": read_rope(hf, head_dim),
        "norm_eps": float(hf.get("rms_norm_eps", 1e-6)),
        "activation": hf.get("hidden_act", "silu"),
        "tie_embeddings": bool(hf.get("tie_word_embeddings", False)),
        "qkv_bias": attention_bias,
        "o_bias": attention_bias,
        "mlp_bias": bool(hf.get("mlp_bias")),
    }
    config = ModelConfig(
        architecture=architecture,
        vocab_size=hf["vocab_size"],
        hidden_size=hidden,
        mlp_size=hf["intermediate_size"],
        num_layers=hf["num_hidden_layers"],
        num_heads=heads,
        max_position_embeddings=hf["max_position_embeddings"],
        dtype=choose_dtype(dtype, hf, Path(path)),
        **(common | family.switches(hf)),
    )
    known = (*ACTIVATIONS, *(() if config.gated else ("xielu",)))
    if config.activation not in known:
        raise UnsupportedModel(f"hidden_act={config.activation!r} is not supported; supported are {', '.join(known)}.")
    return config


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


def choose_dtype(asked: str, hf: Mapping[str, Any], path: Path) -> jnp.dtype:
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


def _ids(value: int | list[int] | None) -> list[int]:
    return [] if value is None else [value] if isinstance(value, int) else list(value)
