"""torch and torchax, imported together across their versions. The torch side of this package starts here.

torchax runs a torch module on jax arrays, tracers included: calling the module is tracing it. `module.py` and its
neighbours take torchax's names from here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import torch
from torch._ops import OpOverloadPacket


@contextlib.contextmanager
def _missing_overloads_are_names() -> Iterator[None]:
    """torchax 0.0.13 registers overloads of named tensors that torch 2.13 no longer has; nobody can call those."""
    original = OpOverloadPacket.__getattr__

    def find(self: OpOverloadPacket, key: str) -> Any:
        try:
            return original(self, key)
        except AttributeError:
            if key.startswith("__"):
                raise
            return f"missing: {self}.{key}"

    OpOverloadPacket.__getattr__ = find  # type: ignore[method-assign]
    try:
        yield
    finally:
        OpOverloadPacket.__getattr__ = original  # type: ignore[method-assign]


with _missing_overloads_are_names():
    import torchax
    from torchax.interop import jax_view, torch_view
    from torchax.tensor import Tensor
    from torchax.view import View

    torchax_env = torchax.default_env()

__all__ = ["jax_view", "override", "torch", "torch_view", "tracing"]


@contextlib.contextmanager
def tracing() -> Iterator[None]:
    """Torch's operations on jax's arrays inside the block are jax's. Quiet where it is not a matter of ours: torch's
    whole numbers of 64 bits become those of 32, and kernels that transformers misses would not be used anyway."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad(), torchax_env:
            warnings.filterwarnings("ignore", message="Explicitly requested dtype")
            yield
    finally:
        logger.setLevel(level)


def override(operation: Any, function: Callable[..., Any]) -> None:
    """Torch's operation becomes this function of jax's arrays, whose first argument is torchax' own."""
    own = torchax_env._get_op_or_decomp(operation)
    torchax_env._ops[operation] = dataclasses.replace(own, func=functools.partial(function, own.func))


def _copy(target: Any, source: torch.Tensor, non_blocking: bool = False) -> Any:
    """aten.copy_ from any tensor; torchax' own cannot read a view."""
    array = jax_view(source) if isinstance(source, (Tensor, View)) else jnp.asarray(source.numpy())
    if isinstance(target, View):
        target.update(torch_view(array))
    else:
        target._elem = jnp.broadcast_to(array, target.shape).astype(target._elem.dtype)
    return target


def _type_as(self: Any, other: torch.Tensor) -> Any:
    """Tensor.type_as of any tensor; torchax' own changes the tensor itself, and cannot read a view."""
    return self.to(other.dtype)


Tensor.type_as = _type_as
torchax_env.override_op_definition(torch.ops.aten.copy_, _copy, is_view_op=True)
