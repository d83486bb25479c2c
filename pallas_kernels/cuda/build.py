"""Compiles one .cu source of this folder with nvcc when it is first used.

Called by each op's `cuda.py` while it is traced: `target` returns a name for jax.ffi.ffi_call. Everything static about
a call (head size, element type, vocabulary) is a macro of the compilation, so a library holds one specialisation and
builds in seconds.
"""

import functools
import importlib.util
import logging
import os
import re
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import jax

from pallas_kernels import native

logger = logging.getLogger(__name__)

SOURCES = Path(__file__).parent
LEAST = 9.0  # compute capability: clusters of thread blocks, kernels that start before the one in front has ended
ELEMENTS = {"bfloat16": "__nv_bfloat16", "float16": "__half"}  # what the sources call the types of sixteen bits
EXPONENTS = {"float8_e4m3fn": 4, "float8_e5m2": 5}  # bits of them: how the sources tell the types of eight apart
UNSEEN = "9.0", 132  # compute capability and multiprocessors to compile for on a machine without a GPU: an H200's
ARCHITECTURE_SPECIFIC = ("9.0", "10.0", "10.3", "12.0")  # capabilities with instructions of their own: sm_90a
FLAGS = ("-std=c++17", "-O3", "-shared", "-cudart=static", "-Xcompiler=-fPIC", "-Xptxas=-v", "-ftz=true")


_in_background: ContextVar[bool] = ContextVar("cuda_in_background", default=False)
_compiling: dict[tuple[Path, str], Future[None]] = {}  # by library and handler
_guard = threading.Lock()
_refused: list[Exception] = []  # why the kernels cannot be compiled here


def target(source: str, **constants: int | str) -> str:
    """Name under which jax.ffi calls the handler of `source` (the file SOURCES/<source>.cu, the C symbol <source>),
    compiled with each constant as a macro. The first call on a machine compiles; the first of a process loads."""
    path, command = _planned(source, tuple(sorted(constants.items())), architecture())
    if path.exists() or not _in_background.get():
        native.build(command, path)
        return native.target(path, source, "CUDA")
    with _guard:
        if (path, source) not in _compiling:
            _compiling[path, source] = _threads().submit(native.build, command, path)
    return native.target_later(path, source, "CUDA")


def recorded_target(source: str, **constants: int | str) -> str:
    """As `target`, of a handler whose kernels become nodes of XLA's graphs where that can be (record.cuh)."""
    return target(source, **constants) + native.RECORDED


@contextmanager
def in_background() -> Iterator[None]:
    """Inside, in this thread, `target` does not wait for the compiler. Before a program that was traced inside runs,
    `finish` must be called."""
    token = _in_background.set(True)
    try:
        yield
    finally:
        _in_background.reset(token)


def finish() -> None:
    """Wait for all that was begun in the background. BuildError if one of them does not compile."""
    with _guard:
        begun = dict(_compiling)
        _compiling.clear()
    for (path, source), future in begun.items():
        future.result()
        native.bind(path, source)


def library(source: str, constants: dict[str, int | str], *, arch: str, cache: Path = native.CACHE) -> Path:
    """The shared library, from `cache` or compiled; beside it, ending in .log, what ptxas told (registers, spills)."""
    path, command = _plan(source, constants, arch, cache)
    native.build(command, path)
    return path


@functools.cache
def _planned(source: str, constants: tuple[tuple[str, int | str], ...], arch: str) -> tuple[Path, list[str]]:
    return _plan(source, dict(constants), arch, native.CACHE)


def _plan(source: str, constants: dict[str, int | str], arch: str, cache: Path) -> tuple[Path, list[str]]:
    """Where the library lies or will, and the command that makes it."""
    compiler, file = nvcc(), SOURCES / f"{source}.cu"
    command = [
        str(compiler), *FLAGS, *(f"-D{name}={value}" for name, value in sorted(constants.items())),
        f"-gencode=arch=compute_{arch},code=sm_{arch}", "-isystem", jax.ffi.include_dir(), str(file),
        f"-L{compiler.resolve().parents[1] / 'lib'}",  # where nvcc comes from a wheel it does not look there
    ]  # fmt: skip
    sources = (file, *sorted(SOURCES.glob("*.cuh")))
    return native.place(source, command, sources, (nvcc_version(compiler),), cache=cache), command


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="nvcc")


def nvcc() -> Path:
    """The compiler: of PATH, of CUDA_HOME, of /usr/local/cuda, or of the wheel nvidia-cuda-nvcc."""
    found, looked_in = _find_nvcc()
    if found is None:
        raise native.BuildError(
            "the CUDA kernels are compiled when first used, and there is no nvcc: not on PATH, not in "
            f"{', '.join(f'{home}/bin' for home in looked_in)}. Install the CUDA toolkit and set CUDA_HOME, or "
            "`pip install 'jaxengine[cuda]'`, or use kernel_backend='pallas', which needs no compiler"
        )
    return found


def available() -> bool:
    """Whether the kernels can be compiled for this machine's GPU: the smallest is tried; inside `in_background` the
    compiler is trusted, since `finish` will tell. Says once why not."""
    if not _refused:
        _look_for_compiler() if _in_background.get() else _try_probe()
    return not _refused


def refuse(error: Exception) -> None:
    """The kernels cannot be compiled here: from now on they are not available."""
    logger.warning("CUDA kernels are left to Pallas, which is slower in places: %s", error)
    _refused.append(error)


@functools.cache
def _look_for_compiler() -> None:
    try:
        if float(_capability()) < LEAST:
            raise native.BuildError(f"they want compute capability {LEAST}, and this GPU has {_capability()}")
        nvcc()
    except native.BuildError as error:
        refuse(error)


@functools.cache
def _try_probe() -> None:
    _look_for_compiler()
    if not _refused:
        try:
            library("probe", {}, arch=architecture())
        except (native.BuildError, OSError) as error:
            refuse(error)


@functools.cache
def _find_nvcc() -> tuple[Path | None, tuple[Path, ...]]:
    homes = [Path(home) for home in (os.environ.get("CUDA_HOME"), "/usr/local/cuda") if home]
    wheels = importlib.util.find_spec("nvidia")
    for place in wheels.submodule_search_locations or () if wheels else ():
        homes += sorted(Path(place).glob("cu*"), reverse=True)
    found = shutil.which("nvcc") or next((str(p) for h in homes if (p := h / "bin" / "nvcc").is_file()), None)
    return (Path(found) if found else None), tuple(homes)


@functools.cache
def nvcc_version(compiler: Path) -> str:
    """The line of `nvcc --version` that names the release and the build."""
    told = native.run([str(compiler), "--version"])
    match = re.search(r"V\d+\.\d+\.\d+", told)
    return match[0] if match else told


def architecture() -> str:
    """What nvcc calls this machine's GPU, as in "90a"."""
    capability = _capability()
    return capability.replace(".", "") + ("a" if capability in ARCHITECTURE_SPECIFIC else "")


def _capability() -> str:
    return next((d.compute_capability for d in jax.devices() if d.platform == "gpu"), UNSEEN[0])


def multiprocessors() -> int:
    """Of this machine's GPU."""
    return next((d.core_count for d in jax.devices() if d.platform == "gpu"), UNSEEN[1])
