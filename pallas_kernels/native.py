"""Shared libraries of our own C++ and CUDA sources: compiled once per machine, registered with jax once per process.

Called by cuda/build.py and cpu/build.py, which know their compilers. Libraries are kept by the hash of all that went
into them, in the user's cache; any number of processes may ask for one at once.
"""

import ctypes
import fcntl
import functools
import hashlib
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

import jax

CACHE = Path.home() / ".cache" / "jaxengine" / "kernels"
SLOTS = 256  # of later.cc
TOLD = 15  # lines of the compiler that an error shows
RECORDED = ".recorded" if (Path(jax.ffi.include_dir()) / "xla/ffi/api/record_c_api.h").exists() else ""
"""What stands behind the names of handlers whose kernels become nodes of XLA's graphs (cuda/record.cuh, later.cc)."""


class Handler(NamedTuple):
    """A function of a library that programs call."""

    library: str  # file in CACHE
    symbol: str
    platform: Literal["CUDA", "cpu"]


_registering = threading.Lock()
_registered: dict[str, Handler] = {}
_slots: dict[str, int] = {}  # of later.cc, by target name


class BuildError(RuntimeError):
    """A kernel could not be built; says what is missing, or what the compiler said."""


def library(
    name: str, command: list[str], sources: Iterable[Path], identity: Iterable[str] = (), *, cache: Path = CACHE
) -> Path:
    """The shared library that `command` makes when `-o PATH` is added to it: from `cache` if it is there, else built.

    It is known by name, command, the bytes of `sources` (all files that the command reads), jax's headers and
    `identity`: what else decides, such as the compiler's version. Beside it, ending in .log, lies what the compiler
    told.
    """
    path = place(name, command, sources, identity, cache=cache)
    build(command, path)
    return path


def place(
    name: str, command: list[str], sources: Iterable[Path], identity: Iterable[str] = (), *, cache: Path = CACHE
) -> Path:
    """Where the library of these arguments of `library` lies once it is built."""
    digest = hashlib.sha256("\0".join([name, *command, *identity, jax.lib.__version__]).encode())
    for file in sources:
        digest.update(file.read_bytes())
    return cache / f"{name}_{digest.hexdigest()[:20]}.so"


def build(command: list[str], path: Path) -> None:
    """The library at `path`, unless it is there."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one process compiles, the others wait for it
        if not path.exists():
            _build(command, path)


def target(path: Path, symbol: str, platform: Literal["CUDA", "cpu"]) -> str:
    """Name under which jax.ffi.ffi_call calls the handler `symbol` of the library at `path`."""
    name = target_name(path, symbol)
    with _registering:  # programs are traced in threads, and jax refuses to register a name twice
        if name not in _registered:
            function = getattr(ctypes.CDLL(str(path)), symbol)  # the library stays for as long as the process lives
            jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(function), platform=platform)
            _registered[name] = Handler(path.name, symbol, platform)
    return name


def target_later(path: Path, symbol: str, platform: Literal["CUDA", "cpu"]) -> str:
    """As `target`, of a library that is still being built: programs can be compiled with the name, and may run once
    `bind` was called. BuildError without a C++ compiler, or where too many are being built."""
    name = target_name(path, symbol)
    with _registering:
        if name not in _registered:
            if len(_slots) == SLOTS:
                raise BuildError(f"{SLOTS} libraries were built in the background already")
            function = ctypes.cast(_later().slot_at(len(_slots), name.encode()), ctypes.CFUNCTYPE(None))
            jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(function), platform=platform)
            _slots[name] = len(_slots)
            _registered[name] = Handler(path.name, symbol, platform)
    return name


def bind(path: Path, symbol: str) -> None:
    """The library of a `target_later` is there now."""
    built = ctypes.CDLL(str(path))
    functions = getattr(built, symbol), getattr(built, f"{symbol}_record", None)
    addresses = (function and ctypes.cast(function, ctypes.c_void_p) for function in functions)
    _later().bind_slot(_slots[target_name(path, symbol)], *addresses)


@functools.cache
def _later() -> ctypes.CDLL:
    source = Path(__file__).with_name("later.cc")
    compiler = next((found for name in ("c++", "g++", "clang++") if (found := shutil.which(name))), "c++")
    command = [compiler, "-std=c++17", "-O1", "-fPIC", "-shared", "-isystem", jax.ffi.include_dir(), str(source)]
    made = ctypes.CDLL(str(library("later", command, (source,))))
    made.slot_at.restype, made.slot_at.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_char_p)
    made.bind_slot.argtypes = ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p
    return made


def target_name(path: Path, symbol: str) -> str:
    """What `target` returns."""
    return f"{path.stem}.{symbol}"


def registered() -> tuple[Handler, ...]:
    """All handlers that this process's programs may call so far."""
    with _registering:
        return tuple(_registered.values())


def restore(handlers: Iterable[Handler]) -> None:
    """Register handlers of `registered` in another process of this machine, for programs that come from disk.
    FileNotFoundError if a library is gone."""
    for handler in handlers:
        path = CACHE / handler.library
        if not path.exists():
            raise FileNotFoundError(path)
        target(path, handler.symbol, handler.platform)


def run(command: list[str]) -> str:
    """What a command wrote, both streams; BuildError if it fails."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    except OSError as error:
        raise BuildError(f"{command[0]} does not run: {error}") from error
    if done.returncode:
        lines = done.stdout.splitlines()
        first = next((i for i, line in enumerate(lines) if "error" in line), max(0, len(lines) - TOLD))
        told = "\n".join(lines[first : first + TOLD])
        raise BuildError(
            f"a kernel does not compile; kernel_backend='pallas' on a GPU and 'reference' on a CPU need no compiler. "
            f"The compiler was called as\n{' '.join(command)}\nand said\n{told}"
        )
    return done.stdout


def _build(command: list[str], path: Path) -> None:
    """Into a temporary file that becomes `path` at once, so that nobody loads half a library."""
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        made = Path(directory) / path.name
        path.with_suffix(".log").write_text(run([*command, "-o", str(made)]))
        made.replace(path)
