"""What a mask of transformers means to our kernels.

`masking_utils` composes masks of small functions; it hands the whole to the function registered beside our attention,
and modules hand what that returns on to `attention.attend`. So the mask itself, not a config, says which keys are seen.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from jaxengine.models import UnsupportedModel

COMPOSED = ("and_masks", "remap_positions_for_packed_sequence", "add_offsets_to_mask_function")
HARMLESS = ("causal_mask_function", "packed_sequence_mask_function", "padding_mask_function", "blockwise_overlay")
"""Functions that hide no more than pages and causality do. Blocks are those of images, and a prompt here has none."""


@dataclass(frozen=True)
class Mask:
    """The keys that a token sees: those before it, in a window or in its chunk of the context."""

    window: int | None = None  # itself included
    chunk: int | None = None  # the context is cut every so many tokens
    problem: str | None = None  # a part of the mask that we do not know

    @staticmethod
    def describe(*, mask_function: Callable[..., Any] | None = None, **_: Any) -> Mask:
        """The mask interface of transformers, for text without padding."""
        found: dict[str, Any] = {}
        for name, variables in _parts(mask_function):
            match name:
                case "sliding_window_overlay":
                    found["window"] = int(variables["sliding_window"])
                case "chunked_overlay":
                    found["chunk"] = int(variables["chunk_size"])
                case _ if name not in HARMLESS:
                    found["problem"] = name
        return Mask(**found)

    def __getitem__(self, _: Any) -> Mask:
        """Modules cut a mask to the number of keys."""
        return self

    def __radd__(self, _: Any) -> Any:
        raise UnsupportedModel("it adds its mask to scores that it computes itself.")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise UnsupportedModel("it makes a mask of its own from that of transformers.")

    def to(self, *_: Any, **__: Any) -> Mask:
        """Modules move a mask to where the queries are."""
        return self


def _parts(function: Callable[..., Any] | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """The functions that a mask is composed of: who made each, and with what."""
    if function is None:
        return
    name = function.__qualname__.split(".")[0]
    variables = dict(inspect.getclosurevars(function).nonlocals)
    inner = variables.pop("mask_functions", None) or [variables.pop("mask_function", None)]
    if name in COMPOSED or name == "or_masks":
        names = [part for each in inner for part in _parts(each)]
        wider = name == "or_masks" and not {part for part, _ in names} & {"blockwise_overlay"}
        yield from [("or_masks", {})] if wider else names
    else:
        yield name, variables
