"""Which implementation of an op runs where.

Every op asks `resolve(backend, offered, op)` once, while it is traced. `offered` names the implementations that can
take the call at hand, the fastest measured one first. An explicit argument wins, then `use_backend`, then the first
offered one that the platform can run. "pallas" on a CPU runs the kernels in Pallas' interpreter, which is how the tests
check them; "cuda" and "cpu" are compiled from our own sources when first used.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import Literal, get_args

import jax

from pallas_kernels.cpu import build as cpu_build
from pallas_kernels.cuda import build as cuda_build

Backend = Literal["reference", "pallas", "cuda", "cpu"]

OPS = tuple(sorted(file.parent.name for file in Path(__file__).parent.glob("*/reference.py")))

_override: ContextVar[Mapping[str, Backend]] = ContextVar("kernel_backend", default=MappingProxyType({}))
_OTHERS = "*"  # stands for the ops that a setting does not name


def parse(setting: str) -> Mapping[str, Backend]:
    """What a setting asks of each op: "auto" nothing, "pallas" that of all, "pallas,top_k=cuda" an exception,
    "top_k=cuda" nothing of the others. ValueError names what is not known."""
    asked: dict[str, Backend] = {}
    for part in setting.split(","):
        op, _, name = part.strip().rpartition("=")
        if op and op not in OPS:
            raise ValueError(f"there is no op {op!r}; there are {', '.join(OPS)}")
        if name != "auto":
            asked[op or _OTHERS] = _known(name)
    return asked


@contextmanager
def use_backend(setting: str) -> Iterator[None]:
    """Make what `parse` makes of the setting the default of every op traced inside the `with` block. Programs that are
    compiled already keep theirs."""
    token = _override.set(parse(setting))
    try:
        yield
    finally:
        _override.reset(token)


def resolve(backend: Backend | None, offered: tuple[Backend, ...], op: str) -> Backend:
    """The backend that `op` shall run, out of those it offers. An explicit one it lacks is an error; where it lacks the
    one that `use_backend` asks for, it runs what it would without."""
    if backend is not None:
        if _known(backend) not in offered:
            raise ValueError(f"{op} has no {backend!r} implementation here; it has {', '.join(map(repr, offered))}")
        return backend
    asked = _override.get()
    wanted = asked.get(op, asked.get(_OTHERS))
    if wanted in offered:
        return wanted
    return next((name for name in offered if _runs(name)), "reference")


def compilers() -> tuple[Backend, ...]:
    """The backends that this machine compiles itself: what a program is depends on them."""
    compiled: tuple[Backend, ...] = ("cuda", "cpu")
    return tuple(name for name in compiled if _runs(name))


def interpret() -> bool:
    """Whether Pallas kernels must run in the interpreter, because programs are compiled for a device other than a
    GPU."""
    return platform() != "gpu"


def platform() -> str:
    """What programs are compiled for here, "gpu" or "cpu": the mesh's in force, else that of jax's devices."""
    mesh = jax.sharding.get_abstract_mesh()
    device = getattr(mesh, "abstract_device", None)
    name: str = device.platform if device is not None else jax.default_backend()
    return "gpu" if name == "cuda" else name


def _known(name: str) -> Backend:
    for backend in get_args(Backend):
        if name == backend:
            return backend
    raise ValueError(f"unknown kernel backend {name!r}; known are {', '.join(map(repr, get_args(Backend)))}")


def _runs(name: Backend) -> bool:
    if name == "cuda":
        return platform() == "gpu" and cuda_build.available()
    if name == "cpu":
        return platform() == "cpu" and cpu_build.available()
    return name == "reference" or name == {"gpu": "pallas"}.get(platform())
