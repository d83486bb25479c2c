"""RoPE as config.json states it, as transformers 4 and 5 spell it → Rope. Called by hf_config.py and families/."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from jaxengine.layers.rope import Rope, yarn_attention_factor
from jaxengine.models import UnsupportedModel


def read_rope(hf: Mapping[str, Any], head_dim: int, layer_type: str | None = None, **fields: Any) -> Rope:
    """rope_theta and rope_scaling (transformers 4), or rope_parameters (transformers 5); rope_scaling wins over it.

    layer_type: where rope_parameters has an entry for each type of layer. fields: of Rope, that config.json leaves out.
    """
    new, scaling = hf.get("rope_parameters") or {}, hf.get("rope_scaling") or {}
    if layer_type is not None and layer_type in new:
        new, scaling = new[layer_type] or {}, {}
    stated = scaling or new
    kind = stated.get("rope_type") or stated.get("type") or "default"
    theta = stated.get("rope_theta") or new.get("rope_theta") or hf.get("rope_theta") or 10000.0
    part = stated.get("partial_rotary_factor", new.get("partial_rotary_factor")) or hf.get("partial_rotary_factor") or 1
    rotary_dim = int(head_dim * part) if part != 1 else 0
    plain = Rope(**({"head_dim": head_dim, "theta": float(theta), "rotary_dim": rotary_dim} | fields))
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
        case "longrope" | "su":
            return _longrope(hf, stated, plain, original)
        case _:
            raise UnsupportedModel(
                f"RoPE scaling {kind!r} is not supported; use default, linear, dynamic, llama3, longrope or yarn."
            )


def read_ropes_by_type(
    hf: Mapping[str, Any], head_dim: int, types: Sequence[str], local_theta: float
) -> dict[str, Any]:
    """The fields `rope` and `layer_ropes` of ModelConfig, where layers with a window turn in a way of their own.

    types: of each layer, as in layer_types. transformers 4 stretched the others alone, and gave the base of these,
    local_theta, under a name of its own.
    """
    everywhere = read_rope(hf, head_dim, "full_attention")
    if "sliding_attention" in (hf.get("rope_parameters") or {}):
        local = read_rope(hf, head_dim, "sliding_attention")
    else:
        local = Rope(head_dim, theta=float(local_theta))
    ropes = tuple(local if kind == "sliding_attention" else everywhere for kind in types)
    return {"rope": everywhere, "layer_ropes": () if local == everywhere else ropes}


def _longrope(hf: Mapping[str, Any], stated: Mapping[str, Any], plain: Rope, original: int) -> Rope:
    """The factor on cosines and sines grows with the stretch unless it is stated (arXiv:2402.13753)."""
    short, long = (tuple(map(float, stated.get(name) or ())) for name in ("short_factor", "long_factor"))
    if not len(short) == len(long) == plain.turning // 2:
        raise UnsupportedModel(
            f"config.json: longrope wants short_factor and long_factor of {plain.turning // 2} numbers each."
        )
    factor = hf["max_position_embeddings"] / original
    attention = stated.get("attention_factor")
    if attention is None:
        attention = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    return replace(
        plain,
        kind="longrope",
        original_length=original,
        attention_factor=attention,
        short_factor=short,
        long_factor=long,
    )


def _number(stated: Mapping[str, Any], name: str) -> float:
    if stated.get(name) is None:
        raise UnsupportedModel(f"config.json: RoPE scaling {dict(stated)} lacks {name!r}.")
    return float(stated[name])
