"""Rotary embeddings of torch modules by our own kernel, which normalises and rotates heads while it writes pages.

Modules call the function `apply_rotary_pos_emb` of their own file on their way to attention. `module.py` calls `adopt`,
which has such functions note what they rotate (origins.py); attention.py asks `before` for that.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array

from torch_compat._torchax import jax_view, torch
from torch_compat.origins import Normed, Rotated, current

NAME = "apply_rotary_pos_emb"
HEADS = ["q", "k", "cos", "sin"]  # first parameters of the kind that we know


@dataclass(frozen=True)
class Before:
    """What queries and keys were before they were rotated, and before the norm in front of that, if both had one."""

    q: Array  # [T, H, D]
    k: Array  # [T, K, D]
    angles: tuple[Array, Array]  # cosines and sines, each [T, D/2] float32
    norms: tuple[Array, Array] | None = None  # weights [D]
    eps: float = 0.0


def adopt(model: torch.nn.Module) -> None:
    """From now on the functions that rotate heads in the model's files note what they rotate."""
    for file in {type(module).__module__ for module in model.modules()}:
        rotate = getattr(sys.modules[file], NAME, None)
        ours = isinstance(rotate, functools.partial) and rotate.func is _rotate
        if rotate is not None and not ours and rotates_halves(rotate):
            setattr(sys.modules[file], NAME, functools.partial(_rotate, rotate))


def before(query: Array, key: Array) -> Before | None:
    """query: [1, H, T, D], key: [1, K, T, D]. None: they are not both rotated by the same angles."""
    if (origins := current()) is None:
        return None
    q, k = origins.find(query, Rotated), origins.find(key, Rotated)
    if q is None or k is None or q.cos is not k.cos or q.sin is not k.sin:
        return None
    half = q.cos.shape[-1] // 2  # the other one is the same: else it would be no rotation
    cos, sin = (array[0, :, :half].astype(jnp.float32) for array in (q.cos, q.sin))
    norms = origins.find(q.x, Normed), origins.find(k.x, Normed)
    if norms[0] and norms[1] and norms[0].eps == norms[1].eps:
        both = norms[0].weight, norms[1].weight
        return Before(_tokens_first(norms[0].x), _tokens_first(norms[1].x), (cos, sin), both, norms[0].eps)
    return Before(_tokens_first(q.x), _tokens_first(k.x), (cos, sin))


def _rotate(own: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """A module's own function, noted where it is called with q [1, H, T, D], k [1, K, T, D], cosines and sines
    [1, T, D], and nothing else."""
    out, origins = own(*arguments, **keywords), current()
    if origins is None or len(arguments) != 4 or keywords:
        return out
    q, k, cos, sin = map(jax_view, arguments)
    if cos.shape == sin.shape == (q.shape[0], *q.shape[2:]):
        for heads, rotated in zip((q, k), out, strict=True):
            origins.note(jax_view(rotated), Rotated(heads, cos, sin))
    return out


def rotates_halves(rotate: Callable[..., Any]) -> bool:
    """Whether a function rotates the halves of heads into one another, tried out on random ones."""
    if list(inspect.signature(rotate).parameters)[:4] != HEADS:
        return False
    random = torch.Generator().manual_seed(0)
    q, k, angles = (torch.randn(shape, generator=random) for shape in ((1, 4, 3, 8), (1, 2, 3, 8), (1, 3, 4)))
    cos, sin = torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)
    try:
        out = rotate(q, k, cos, sin)
    except Exception:  # whatever it is, it is not that
        return False
    turned = [x * cos[:, None] + torch.cat([-x[..., 4:], x[..., :4]], -1) * sin[:, None] for x in (q, k)]
    return len(out) == 2 and all(torch.allclose(a, b, atol=1e-6) for a, b in zip(out, turned, strict=True))


def _tokens_first(x: Array) -> Array:
    """[1, heads, T, D] → [T, heads, D]"""
    return x[0].swapaxes(0, 1)
