"""Which implementation of an op runs where.

Every op asks `resolve(backend, offered)` once, while it is traced: an explicit argument wins, then `use_backend`, then
the platform's default. "pallas" on a CPU runs the kernels in Pallas' interpreter, which is how the tests check them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, get_args

import jax

Backend = Literal["reference", "pallas", "cuda"]

_override: ContextVar[Backend | None] = ContextVar("kernel_backend", default=None)


def default_backend() -> Backend:
    """The backend in force here: that of the innermost `use_backend`, else "pallas" on a GPU and "reference"
    elsewhere."""
    return _override.get() or ("pallas" if jax.default_backend() == "gpu" else "reference")


@contextmanager
def use_backend(name: Backend) -> Iterator[None]:
    """Make `name` the default of every op traced inside the `with` block. Programs that are compiled already keep
    theirs."""
    token = _override.set(_known(name))
    try:
        yield
    finally:
        _override.reset(token)


def resolve(backend: Backend | None, offered: tuple[Backend, ...], op: str) -> Backend:
    """The backend that `op` shall run, out of those it has. An explicit one it lacks is an error; a default one it
    lacks falls back to the reference."""
    if backend is None:
        chosen = default_backend()
        return chosen if chosen in offered else "reference"
    if _known(backend) not in offered:
        raise ValueError(f"{op} has no {backend!r} implementation; it has {', '.join(map(repr, offered))}")
    return backend


def interpret() -> bool:
    """Whether Pallas kernels must run in the interpreter, because programs are compiled for a device other than a
    GPU."""
    mesh = jax.sharding.get_abstract_mesh()
    device = getattr(mesh, "abstract_device", None)
    platform = device.platform if device is not None else jax.default_backend()
    return platform not in ("gpu", "cuda")


def _known(name: str) -> Backend:
    for known in get_args(Backend):
        if name == known:
            return known
    raise ValueError(f"unknown kernel backend {name!r}; known are {', '.join(map(repr, get_args(Backend)))}")
