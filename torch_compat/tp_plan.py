"""transformers' plan of tensor parallelism → which dimension of each parameter is split over devices.

GSPMD follows the weights' shardings, so a plan only decides what is fast: where transformers has none, or a dimension
does not divide, a parameter is whole on every device. `module.py` asks for the axes of each weight.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

COLUMNS = ("colwise", "colwise_gather_output", "packed_colwise", "embedding_rowwise")  # splits a weight's outputs
ROWS = ("rowwise", "rowwise_split_input", "packed_rowwise", "embedding_colwise")  # splits its inputs
SPLIT = "mlp"  # any logical axis that sharding.py splits over devices


def plan_of(module: Any) -> dict[str, str]:
    """Pattern of module or parameter names → style, of the module and all its parts."""
    plan = dict(getattr(module, "_tp_plan", None) or {})
    for name, child in module.named_modules():
        if child is module.get_input_embeddings() or child is module.get_output_embeddings():
            plan.setdefault(name, "embedding_rowwise")  # the vocabulary
    return plan


def axes(name: str, shape: tuple[int, ...], plan: Mapping[str, str], tp: int, *, transposed: bool) -> tuple[Any, ...]:
    """Logical axis of each dimension of a parameter.

    shape: [..., outputs, inputs], the other way round where `transposed`, or a bias [outputs].
    """
    whole: tuple[Any, ...] = (None,) * len(shape)
    style = _style(name, plan)
    bias = name.endswith("bias")
    if tp == 1 or (bias and style in ROWS):
        return whole
    outputs, inputs = (len(shape) - 1, -1) if bias else (len(shape) - 2, len(shape) - 1)
    if transposed and not bias:
        outputs, inputs = inputs, outputs
    dim = outputs if style in COLUMNS else inputs if style in ROWS else -1
    if dim < 0 or shape[dim] % tp:
        return whole
    return tuple(SPLIT if i == dim else None for i in range(len(shape)))


def _style(name: str, plan: Mapping[str, str]) -> str | None:
    for pattern, style in plan.items():
        place = re.escape(pattern).replace(r"\*", "[^.]+")
        if re.fullmatch(rf"{place}(\.weight|\.bias)?", name):
            return style
    return None
