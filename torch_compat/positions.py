"""Position embeddings that count from the length of the cache, made to count from the step's positions.

The decoders of older encoder-decoders (BART, Pegasus, Whisper, …) embed positions "n of the past, n + 1, …". Tokens
here are packed from many requests, so `adopt` looks their positions up in what the module makes of all positions.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import jax.numpy as jnp

from torch_compat._torchax import jax_view, torch, torch_view
from torch_compat.attention import current

LENGTHS = ("cache_length", "past_key_values_length", "past_key_value_length")
ANY_TOKEN = 3  # that is no padding


def adopt(model: torch.nn.Module, longest: int) -> None:
    """Make such modules ours. longest: how many positions the model has."""
    takes_positions = "position_ids" in inspect.signature(model.forward).parameters
    for module in model.modules():
        names = inspect.signature(type(module).forward).parameters
        if hasattr(module, "create_position_ids_from_input_ids"):
            module.forward = functools.partial(_after_padding, module)
        elif takes_positions:
            continue
        elif any(length in names for length in LENGTHS) and not list(module.children()):
            module.forward = functools.partial(_forward, module, longest)


def _after_padding(module: Any, *arguments: Any, **keywords: Any) -> Any:
    """RoBERTa's: the first position comes after the padding's row of the table."""
    shifted = current().positions[None] + module.padding_idx + 1
    return type(module).forward(module, *arguments, **keywords | {"position_ids": torch_view(shifted)})


def _forward(module: Any, longest: int, tokens: Any, *_: Any, **__: Any) -> Any:
    """tokens: [1, T, ...] or their shape → the embeddings of the step's positions, [..., T, E]."""
    first = list(inspect.signature(type(module).forward).parameters)[1]
    if "shape" in first:
        every: Any = torch.Size((1, longest))
    elif isinstance(tokens, torch.Tensor):
        shape = (*tokens.shape[:1], longest, *tokens.shape[2:])
        every = torch_view(jnp.full(shape, ANY_TOKEN, jax_view(tokens).dtype))
    else:
        every = torch.Size((*tokens[:1], longest, *tokens[2:]))
    table = jax_view(type(module).forward(module, every))
    return torch_view(jnp.take(table, current().positions, axis=table.ndim - 2, mode="clip"))
