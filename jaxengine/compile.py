"""Ahead-of-time compilation: many programs at once in threads, kept on disk, and none after the engine is ready.

`runner.py` lists its programs and calls `compile_all`; `engine.py` runs every step inside `forbid_compile`.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import logging
import os
import sys
import threading
import time
import types
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import jax
from tqdm import tqdm

from jaxengine.request import InvalidRequest

logger = logging.getLogger(__name__)

Key = TypeVar("Key", bound=Hashable)
COMPILED = "/jax/core/compile/backend_compile_duration"  # jax.monitoring's event: a program was compiled or loaded
CACHED = "/jax/compilation_cache/cache_hits"  # and this one: it was loaded from jax's own cache
TUNING = "tuning"  # directory of what XLA found out about products: it outlives the programs that it was found for
PATIENCE = 10  # added to the niceness of compiling threads: the one that traces must not wait for them
STACK_BYTES = 64 << 20  # XLA's passes recurse over programs of thousands of instructions


class CompiledWhileServing(RuntimeError):
    """Something compiled after the engine said it was ready: a shape or sharding that start-up had not seen."""


class Phases:
    """Seconds by phase, of the start-up or of one program in it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start


class _Seen(threading.local):
    """What jax told this thread."""

    forbidden = 0  # forbid_compile blocks that it is in
    cache_hits = 0


_seen = _Seen()


def _on_duration(event: str, duration_secs: float, **details: Any) -> None:
    if event == COMPILED and _seen.forbidden:
        name = details.get("fun_name", "a program")
        raise CompiledWhileServing(f"{name} was compiled ({duration_secs:.2f} s) after the engine was ready.")


def _on_event(event: str, **details: Any) -> None:
    _seen.cache_hits += event == CACHED


jax.monitoring.register_event_duration_secs_listener(_on_duration)
jax.monitoring.register_event_listener(_on_event)


@contextlib.contextmanager
def forbid_compile() -> Iterator[None]:
    """Inside, in this thread, compiling anything raises CompiledWhileServing."""
    _seen.forbidden += 1
    try:
        yield
    finally:
        _seen.forbidden -= 1


def keep_programs(directory: str | None) -> Path | None:
    """Where compiled programs and tuning results are kept (None: ~/.cache/jaxengine/xla; "off": nowhere).

    Makes the directory and returns it; None when nothing is kept. jax's own cache, whose question is the traced
    program, stays as the caller has set it: it would serialize and compress every program a second time.
    """
    if directory == "off":
        return None
    path = Path(directory or "~/.cache/jaxengine/xla")
    try:
        path = path.expanduser()
        (path / TUNING).mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # a home that is read-only, or none
        problem = f"{path} cannot be made ({error})"
        if directory:
            raise InvalidRequest("compilation_cache_dir", problem, "name another directory, or off") from None
        logger.warning("compiled programs are not kept: %s; compilation_cache_dir names another place", problem)
        return None
    return path


def compile_anew(lowered: jax.stages.Lowered, options: dict[str, bool | str]) -> tuple[jax.stages.Compiled, bool]:
    """The program, and whether it was compiled now rather than found in jax's cache.

    A program from there must not be serialized again: a CPU's then lacks its functions when it is loaded.
    """
    hits = _seen.cache_hits
    compiled = lowered.compile(options)
    return compiled, _seen.cache_hits == hits


def compile_all(
    keys: Sequence[Key],
    load: Callable[[Key], jax.stages.Compiled | None],  # from an earlier start
    lower: Callable[[Key], jax.stages.Lowered],
    compile: Callable[[Key, jax.stages.Lowered], tuple[jax.stages.Compiled, bool]],  # as compile_anew
    save: Callable[[Key, jax.stages.Compiled], None],
    *,
    progress: bool,
) -> dict[Key, jax.stages.Compiled]:
    """Every program: loaded where that works, else traced here and compiled in a thread. Tracing holds the interpreter,
    loading and compiling do not; saving does, and so waits until all are traced.
    """
    _name_triton_dialect()
    threads = max(2, os.cpu_count() or 2)
    before = threading.stack_size(STACK_BYTES)
    try:
        with (
            _no_collecting(),
            ThreadPoolExecutor(threads, initializer=_let_tracing_go_first) as pool,
            tqdm(total=len(keys), desc="Compiling", disable=not progress) as bar,
        ):
            loads = {key: pool.submit(load, key) for key in keys}
            programs = {key: program for key, found in loads.items() if (program := found.result()) is not None}
            bar.update(len(programs))
            compiling = {}
            for key in keys:
                if key not in programs:
                    compiling[key] = pool.submit(compile, key, lower(key))
                    compiling[key].add_done_callback(lambda _: bar.update())

            def kept(key: Key) -> jax.stages.Compiled:
                program, new = compiling[key].result()
                if new:
                    save(key, program)
                return program

            programs |= dict(zip(compiling, pool.map(kept, compiling), strict=True))
            return {key: programs[key] for key in keys}
    finally:
        threading.stack_size(before)


@contextlib.contextmanager
def _no_collecting() -> Iterator[None]:
    """Traces stay until they are compiled: the collector would look through their many objects again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _name_triton_dialect() -> None:
    """MLIR looks for a Python module of a dialect's name whenever it wraps a value, until there is one. jax has none
    for Triton's: two thousand searches of the disk a program, a fifth of the time that tracing takes."""
    name = "jaxlib.mlir.dialects.tt"
    if name not in sys.modules and importlib.util.find_spec(name) is None:
        sys.modules[name] = types.ModuleType(name)


def _let_tracing_go_first() -> None:
    """Linux has a niceness a thread, which the threads of a thread inherit; elsewhere it is the process' own."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), PATIENCE)
