"""Compiles kernels.cc, all handlers of this folder, for the machine at hand when one is first used.

Called by each op's `cpu.py` while it is traced: `target` returns a name for jax.ffi.ffi_call. backend.py asks
`available` before it chooses this implementation by itself.
"""

import functools
import hashlib
import logging
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp

from pallas_kernels import native

logger = logging.getLogger(__name__)

SOURCES = Path(__file__).parent
DTYPES = (jnp.float32, jnp.bfloat16)  # what the sources read and write
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fPIC", "-shared")


def target(symbol: str) -> str:
    """Name under which jax.ffi calls the handler `symbol`. The first call on a machine compiles, for some seconds; the
    first of a process loads."""
    return native.target(_library(), symbol, "cpu")


@functools.cache
def available() -> bool:
    """Whether the kernels can be compiled and loaded here; says once why not."""
    try:
        target("matmul")
    except (native.BuildError, OSError) as error:
        logger.warning("CPU kernels are left to XLA, which is slower: %s", error)
        return False
    return True


def compiler() -> str:
    """The path of the C++ compiler: the first of COMPILERS on PATH."""
    for name in COMPILERS:
        if found := shutil.which(name):
            return found
    raise native.BuildError(f"there is no C++ compiler on PATH (one of {', '.join(COMPILERS)}, such as of package g++)")


def library(*, cache: Path = native.CACHE, flags: tuple[str, ...] = FLAGS) -> Path:
    """The shared library, from `cache` or compiled."""
    found = compiler()
    command = [found, *flags, "-isystem", jax.ffi.include_dir(), str(SOURCES / "kernels.cc")]
    sources = (SOURCES / "kernels.cc", *sorted(SOURCES.glob("*.h")))
    return native.library("cpu", command, sources, (_meaning(found, flags),), cache=cache)


def _meaning(found: str, flags: tuple[str, ...]) -> str:
    """A digest of the compiler's own macros: its version, and what "native" is on this machine. Home directories, and
    so libraries, are shared by machines whose processors differ."""
    return hashlib.sha256(native.run([found, *flags, "-dM", "-E", "-x", "c++", "/dev/null"]).encode()).hexdigest()


@functools.cache
def _library() -> Path:
    return library()
