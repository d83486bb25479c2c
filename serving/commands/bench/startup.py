"""`jaxengine bench startup`: from a new process to an engine that is ready, with an empty and with a filled cache.

Every run is a fresh process (`child`), so that nothing in memory helps; the parent only reads its one line of JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from serving.commands.bench.report import percentiles, write_json
from serving.options import with_engine_options

CHILD = "from serving.commands.bench.startup import child; child()"


@with_engine_options(without=("compilation_cache_dir",))
def startup(
    engine: dict[str, Any],
    num_iters_cold: Annotated[int, typer.Option(min=0, help="Starts with an empty compilation cache.")] = 3,
    num_iters_warmup: Annotated[int, typer.Option(min=1, help="Starts that fill the cache, not measured.")] = 1,
    num_iters_warm: Annotated[int, typer.Option(min=0, help="Starts with the filled cache.")] = 3,
    output_json: Annotated[Path | None, typer.Option(help="File for the results.")] = None,
) -> None:
    """Measure the time from a new process to a ready engine, cold and warm, by phase."""
    results: dict[str, Any] = {}
    if num_iters_cold:
        results |= summary("cold", [_cold(engine) for _ in range(num_iters_cold)])
    if num_iters_warm:
        with tempfile.TemporaryDirectory(prefix="jaxengine-bench-") as cache:
            for _ in range(num_iters_warmup):
                run_child(engine, cache)
            results |= summary("warm", [run_child(engine, cache) for _ in range(num_iters_warm)])
    write_json(output_json, results)


def _cold(engine: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="jaxengine-bench-") as cache:
        return run_child(engine, cache)


def summary(kind: str, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Print tables and return the results by vLLM's keys: avg_cold_startup_time, cold_startup_times, …

    `{kind}_programs` is ours: program → phase → seconds, the mean over the runs. Programs are loaded and compiled in
    threads, so these seconds overlap; they are traced one after the other.
    """
    typer.echo(f"{kind} start, {len(runs)} runs:")
    results: dict[str, Any] = {}
    for phase in runs[0]:
        if phase == "programs":
            continue
        times = [run[phase] for run in runs]
        name = {"compile": "compilation"}.get(phase, phase)
        results[f"avg_{kind}_{name}_time"] = float(np.mean(times))
        results[f"{kind}_{name}_times"] = times
        results[f"{kind}_{name}_percentiles"] = percentiles(times)
        typer.echo(f"  Avg {kind} {name} time: {np.mean(times):.2f} seconds")
    programs = results[f"{kind}_programs"] = _mean_by_program([run["programs"] for run in runs])
    columns = list(dict.fromkeys(phase for seconds in programs.values() for phase in seconds))
    typer.echo(f"  {'program':20}" + "".join(f"{phase:>10}" for phase in columns))
    for name, seconds in programs.items():
        typer.echo(f"  {name:20}" + "".join(f"{seconds.get(phase, 0.0):10.2f}" for phase in columns))
    return results


def _mean_by_program(runs: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    def mean(name: str, phase: str) -> float:
        return float(np.mean([run[name].get(phase, 0.0) for run in runs]))

    return {name: {phase: mean(name, phase) for phase in seconds} for name, seconds in runs[0].items()}


def run_child(engine: dict[str, Any], cache: str) -> dict[str, Any]:
    """Seconds by phase of one fresh process; `startup` is all of it, from the launch on. `programs`: program → phase →
    seconds."""
    request = json.dumps({"engine": {**engine, "compilation_cache_dir": cache}, "launched": time.time()})
    result = subprocess.run([sys.executable, "-c", CHILD], input=request, capture_output=True, text=True, check=False)
    if result.returncode:
        raise ValueError(f"the engine did not start:\n{result.stderr.strip()[-2000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def child() -> None:
    """In the fresh process: start an engine as told on standard input, and say how long each phase took."""
    request = json.loads(sys.stdin.read())
    from jaxengine.arguments import engine_config
    from jaxengine.build import build_engine

    imported = time.time()
    engine = build_engine(engine_config(**request["engine"]), progress=False)
    ready = time.time()
    told: dict[str, Any] = {"startup": ready - request["launched"], "import": imported - request["launched"]}
    told |= {name: seconds for name, seconds in engine.startup.items() if name != "total"}
    told["programs"] = {str(program): phases.seconds for program, phases in engine.runner.phases.items()}
    engine.close()
    print(json.dumps(told))
