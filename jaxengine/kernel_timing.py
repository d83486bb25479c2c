"""How fast each op's implementations are on this device, beside what the device can read and multiply at most.

`jaxengine bench kernels` calls `measure`, benchmarks/kernels.py `seconds`. Each op is timed as in a step: many in a row
inside one program, so that neither the host nor a dispatch counts.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxengine.kernel_cases import OP_NAMES, Args, Case, Sizes, cases
from pallas_kernels.backend import Backend, platform


@dataclass(frozen=True)
class Floor:
    """What this device does at most, measured."""

    bytes_per_second: float  # read by a plain sum
    flops_per_second: float  # of a large product

    def beside(self, case: Case, seconds: float) -> dict[str, float]:
        """The rate at which a call did what limits it, and the share that is of what the device does at most."""
        reading, computing = case.bytes / self.bytes_per_second, case.flops / self.flops_per_second
        if reading > computing:
            return {"TB/s": case.bytes / seconds / 1e12, "floor": reading / seconds}
        return {"TFLOP/s": case.flops / seconds / 1e12, "floor": computing / seconds}


def measure(
    sizes: Sizes,
    ops: Sequence[str] = OP_NAMES,
    *,
    tokens: Sequence[int],
    contexts: Sequence[int],
    repeats: int = 20,
    floor: Floor | None = None,
) -> Iterator[dict[str, Any]]:
    """One row per case and implementation: op, case, backend, us, TB/s or TFLOP/s, floor (the share of what the device
    does at most), or error where an implementation cannot run. tokens: of a step, also its rows where each has one.
    """
    floor = floor or measure_floor(sizes.dtype)
    backends: tuple[Backend, ...] = ("reference", "pallas", "cuda") if platform() == "gpu" else ("reference", "cpu")
    for case in cases(sizes, ops, tokens, contexts):
        args = case.args()
        for backend in backends:
            row: dict[str, Any] = {"op": case.op, "case": case.what, "backend": backend}
            try:
                taken = seconds(functools.partial(case.call, backend=backend), args, repeats, case.carried)
                yield row | {"us": taken * 1e6, **floor.beside(case, taken)}
            except Exception as error:  # whatever a compiler brings
                if f"no {backend!r} implementation" not in str(error):
                    yield row | {"error": f"{type(error).__name__}: {error}"[:200]}


def measure_floor(dtype: str, *, nbytes: int = 2**31, side: int = 8192) -> Floor:
    """A sum over `nbytes` bytes, and a product of [side, side] matrices."""
    if platform() == "cpu":
        nbytes, side = nbytes // 64, side // 8
    numbers = jnp.ones(nbytes // jnp.dtype(dtype).itemsize, dtype)
    square = jnp.ones((side, side), dtype)
    read = seconds(lambda x: x.sum(dtype=jnp.float32), (numbers,), 10)
    multiplied = seconds(lambda x: x @ x, (square,), 10)
    return Floor(numbers.nbytes / read, 2 * side**3 / multiplied)


def seconds(function: Callable[..., Any], args: Args, repeats: int, carried: int = 0) -> float:
    """Median time of one call, of `repeats` in a row inside one program, after a first one."""
    calls = jax.jit(chain(function, repeats, carried))
    jax.block_until_ready(calls(args))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(calls(args))
        times.append((time.perf_counter() - start) / (repeats + 1))
    return sorted(times)[2]


def chain(function: Callable[..., Any], repeats: int, carried: int = 0) -> Callable[[Args], Any]:
    """A call and then so many more, of which the compiler can neither leave one out nor move it out of the loop.

    carried: how many of the results are the first args of the next call.
    """

    def call(args: Args) -> tuple[Args, list[Array]]:
        results = jax.tree.leaves(function(*args))
        return (*results[:carried], *args[carried:]), results[carried:]

    def again(_: Array, both: tuple[Args, list[Array]]) -> tuple[Args, list[Array]]:
        return lax.optimization_barrier(call(both[0]))

    return lambda args: lax.fori_loop(0, repeats, again, call(args))
