"""What the arrays of a step were computed from, as far as our kernels could compute it themselves.

A kernel may take the operation in front of it along, but a module computes that one first and by itself. So while a
step is traced, products.py and rotation.py note what they see computed; who then finds that what it was given is, say,
a norm calls its kernel with what was normalised. XLA drops the norm, which nobody reads any longer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

from jax import Array


@dataclass(frozen=True)
class Normed:
    """The RMS norm of x [..., E] with weight [E]."""

    x: Array
    weight: Array
    eps: float


@dataclass(frozen=True)
class Product:
    """Tokens [T, E] times a weight [F, E], the tokens normalised where there is a norm."""

    x: Array
    weight: Array
    norm: tuple[Array, float] | None


@dataclass(frozen=True)
class Rotated:
    """Heads x [1, heads, T, D] whose halves are rotated into one another by angles."""

    x: Array
    cos: Array  # [1, T, D], both halves the same
    sin: Array


Origin = TypeVar("Origin", Normed, Product, Rotated)


class Origins:
    """Of arrays by their identity: values never change, and tracers are values too."""

    def __init__(self, whole: bool) -> None:
        self.whole = whole  # arrays are whole on their device
        self._known: dict[int, tuple[Array, Any]] = {}  # with the array, so that no other one gets its id

    def note(self, array: Array, origin: Normed | Product | Rotated) -> None:
        self._known[id(array)] = array, origin

    def find(self, array: Array, kind: type[Origin]) -> Origin | None:
        """What the array was computed from, if in this way."""
        _, origin = self._known.get(id(array), (None, None))
        return origin if isinstance(origin, kind) else None


_current: ContextVar[Origins | None] = ContextVar("torch_origins", default=None)


@contextlib.contextmanager
def noting(origins: Origins | None) -> Iterator[None]:
    """What is traced inside the block is noted there, or nowhere."""
    token = _current.set(origins)
    try:
        yield
    finally:
        _current.reset(token)


def current() -> Origins | None:
    """Where to note what is traced; None: what is traced is no layer of a step."""
    return _current.get()
