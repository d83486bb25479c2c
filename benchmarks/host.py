"""What the host pays for a step of the whole engine, by phase, with the device taken away: its programs answer at once.

    python -m benchmarks.host [--rows 1 32 256] [--cached 8192] [--steps 300] [--json results.json]

The engine is the demo model's, from the request to the RequestOutput with its text; only the compiled step is replaced.
So the call of a program is missing: 0.6 to 1.2 ms for a model of about 30 layers on the host of an H200, which took two
to three times as long for the rest as the machine that this was written on. The last line is a prompt that lies in the
prefix cache: everything between `generate` and its one token.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxengine import LLM, SamplingParams
from jaxengine.programs import Program
from jaxengine.request import RequestOutputKind
from jaxengine.runner import Pending
from jaxengine.step import Output

ANSWER = 65  # the token that every program gives every row


class Phases:
    """Seconds within functions that were `watch`ed, since the last `take`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def watch(self, owner: Any, name: str) -> None:
        function = getattr(owner, name)

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

        setattr(owner, name, timed)

    def take(self, run: Callable[[], Any]) -> dict[str, float]:
        self.seconds.clear()
        start = time.perf_counter()
        run()
        return {"all": time.perf_counter() - start, **self.seconds}


def engine_without_device(rows: int, longest: int) -> LLM:
    llm = LLM(
        "demo",
        enforce_eager=True,
        max_num_seqs=rows,
        max_num_batched_tokens=8192,
        max_model_len=longest,
        hf_overrides={"max_position_embeddings": longest},
        num_gpu_blocks_override=rows * 128 + longest // 16,
        compilation_cache_dir="off",
        use_tqdm_on_load=False,
    )
    runner = llm.engine.runner
    for bucket in runner.buckets.all:
        output = Output(jnp.full(bucket.rows, ANSWER, jnp.int32))
        runner.programs[Program(bucket, False)] = lambda weights, state, packed, output=output: (state, output)
    return llm


def decode(llm: LLM, phases: Phases, rows: int, steps: int) -> dict[str, float]:
    """Median milliseconds of a step with `rows` rows that stream text, by phase."""
    engine, random = llm.engine, np.random.default_rng(0)
    params = SamplingParams(max_tokens=steps + 100, ignore_eos=True, output_kind=RequestOutputKind.DELTA)
    names = [f"{rows}-{row}" for row in range(rows)]
    for name in names:
        engine.add(name, random.integers(0, 255, 256).tolist(), params)
    while engine.scheduler.num_waiting:
        engine.step()
    results = median([phases.take(engine.step) for _ in range(steps + 20)][20:])
    engine.abort(names)
    while engine.has_unfinished() or engine.core.in_flight:
        engine.step()
    return results


def cached_prompt(llm: LLM, phases: Phases, length: int, repeats: int) -> dict[str, float]:
    """Median milliseconds from `generate` to the only token of a prompt in the prefix cache, by phase."""
    prompt = np.random.default_rng(1).integers(0, 255, length).tolist()
    params = SamplingParams(max_tokens=1, ignore_eos=True)

    def run() -> None:
        llm.generate({"prompt_token_ids": prompt}, params, use_tqdm=False)

    run()
    return median([phases.take(run) for _ in range(repeats)])


def median(times: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(t.get(name, 0.0) for t in times) * 1e3, 4) for name in times[-1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 32, 256])
    parser.add_argument("--cached", type=int, default=8192, help="tokens of the cached prompt")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--json", type=Path, help="also write the results here")
    arguments = parser.parse_args()
    llm, phases = engine_without_device(max(arguments.rows), arguments.cached + 1024), Phases()
    engine = llm.engine
    for owner, names in (
        (engine, ("add",)),
        (engine.scheduler, ("schedule", "update")),
        (engine.runner, ("dispatch",)),
        (engine.runner.packer, ("pack",)),
        (Pending, ("wait",)),
        (engine.outputs, ("process",)),
    ):
        for name in names:
            phases.watch(owner, name)
    results = {f"{rows} rows": decode(llm, phases, rows, arguments.steps) for rows in arguments.rows}
    results[f"{arguments.cached} cached"] = cached_prompt(llm, phases, arguments.cached, 50)
    for name, times in results.items():
        print(f"{name:12}  " + "  ".join(f"{phase} {ms:.3f}" for phase, ms in times.items()) + "  ms")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    llm.close()


if __name__ == "__main__":
    main()
