"""A server that is asked for five times what it can do: what becomes of those that it lets in, and of the others.

    python -m benchmarks.serving_overload [--seconds 20] [--factors 0.8 5] [--out results.json]

Starts `jaxengine serve demo` with a bounded queue. First its capacity, with as many requests at once as it has places;
then Poisson arrivals at each factor times it. Requests let in should keep the latency they had below capacity but for
their wait in the short queue; the others should get a 429 with Retry-After at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.served import Served, about, processor_seconds, report, served
from serving.commands.bench.client import Outcome, Target
from serving.commands.bench.connections import Connections, connections
from serving.commands.bench.serving_numbers import numbers
from serving.commands.bench.texts import Prompt
from serving.commands.bench.traffic import departures, run
from serving.http_server import event_loop

ROWS, QUEUE, TOKENS = 16, 8, 64
FLAGS = ["--max-num-seqs", str(ROWS), "--max-queue-len", str(QUEUE), "--max-model-len", "512"]
FLAGS += ["--max-num-batched-tokens", "128"]
TARGET = Target("/v1/completions", "demo", ignore_eos=True, extra={"temperature": 0})


async def measure(server: Served, seconds: float, factors: list[float]) -> dict[str, Any]:
    answers: Counter[str] = Counter()

    async def note(response: httpx.Response) -> None:
        answers[str(response.status_code)] += 1
        answers["429 with retry-after"] += response.status_code == 429 and "retry-after" in response.headers

    async with connections(server.url, {}) as opened:
        plain = opened.open

        def watched() -> httpx.AsyncClient:
            http = plain()
            http.event_hooks["response"].append(note)
            return http

        opened.open = watched
        await burst(opened, ROWS * 4, np.zeros(ROWS * 4), ROWS)
        outcomes, passed = await burst(opened, count := ROWS * 20, np.zeros(ROWS * 20), ROWS)
        capacity = count / passed
        results = {"capacity_requests_per_second": capacity, "at_capacity": summary(outcomes, passed)}
        print(json.dumps(results), flush=True)
        for factor in factors:
            answers.clear()
            times = departures(int(capacity * factor * seconds), capacity * factor, seed=1)
            before, own = server.processor_seconds(), processor_seconds(os.getpid())
            async with asyncio.timeout(seconds * 3 + 60):  # none hangs
                outcomes, passed = await burst(opened, len(times), times, None)
            spent = {name: s - before[name] for name, s in server.processor_seconds().items()}
            spent["client"] = processor_seconds(os.getpid()) - own
            results[f"offered {factor:g} times"] = told = summary(outcomes, passed) | {
                "answers": dict(answers),
                "processor_share": {name: s / passed for name, s in spent.items()},
            }
            print(f"{factor:g} times", json.dumps(told), flush=True)
    return results | {"left": server.left()}


async def burst(opened: Connections, count: int, times: np.ndarray, limit: int | None) -> tuple[list[Outcome], float]:
    prompts = [Prompt(f"{number} and {number + 1} are", 6, TOKENS) for number in range(count)]
    return await run(opened, TARGET, prompts, times, limit, progress=False)


def summary(outcomes: list[Outcome], seconds: float) -> dict[str, Any]:
    """Of the accepted ones; milliseconds."""
    told = numbers(outcomes, seconds, metrics=["ttft", "tpot", "itl", "e2el"], percentiles=[50, 99])
    refused = sorted(o.error.partition(":")[0] for o in outcomes if not o.success)
    kept = {f"p{p}_{m}_ms": round(told[f"p{p}_{m}_ms"], 2) for m in ("ttft", "tpot", "e2el") for p in (50, 99)}
    return {
        "requests": len(outcomes),
        "accepted": told["completed"],
        "refused": dict(Counter(refused)),
        "accepted_per_second": told["request_throughput"],
    } | kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--factors", type=float, nargs="+", default=[0.8, 5])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with served("demo", FLAGS) as server, asyncio.Runner(loop_factory=event_loop) as runner:
        results = about("serving_overload", server=FLAGS, tokens=TOKENS) | runner.run(
            measure(server, arguments.seconds, arguments.factors)
        )
    report(results, arguments.out)


if __name__ == "__main__":
    main()
