"""What the host pays for a step: schedule() and update() with 256 rows decoding, and few or very many waiting behind.

    python benchmarks/scheduler.py [--rows 256] [--steps 300] [--json results.json]

Every step each row's token arrives, pages fill up and are hashed, some requests end, others enter from the line, and
one that waits is aborted: none of it may cost more because more are waiting. Plain Python; no device, no jax.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import time
from pathlib import Path

from jaxengine.pages import PagePool
from jaxengine.prefix_cache import PrefixCache
from jaxengine.request import SamplingParams, make_requests
from jaxengine.scheduler import Plan, Scheduler

PAGE_SIZE = 16
PROMPT = 256
OUTPUT = 128  # on average: 64 to 192, so that requests do not end all at once


def measure(rows: int, waiting: int, steps: int, *, policy: str, algorithm: str) -> dict[str, float | int | str]:
    """Milliseconds of schedule() and update() over `steps` steps in the middle of the traffic."""
    pool = PagePool(rows * (PROMPT + OUTPUT) // PAGE_SIZE * 2)
    scheduler = Scheduler(
        pool,
        PrefixCache(pool, PAGE_SIZE, algorithm),
        max_num_seqs=rows,
        max_num_batched_tokens=max(8192, rows),
        max_model_len=4096,
        page_size=PAGE_SIZE,
        policy=policy,  # type: ignore[arg-type]
    )
    lengths = [SamplingParams(max_tokens=OUTPUT // 2 + length) for length in range(OUTPUT)]
    added = 0

    def add() -> None:
        nonlocal added
        tokens = [(added * 7919 + i) % 50000 for i in range(PROMPT)]
        priority = added % 3 if policy == "priority" else 0
        params = lengths[added * 37 % OUTPUT]
        scheduler.add(make_requests(str(added), tokens, params, priority=priority)[0])
        added += 1

    start = time.perf_counter()
    for _ in range(rows + waiting):
        add()
    add_ms = (time.perf_counter() - start) * 1e3 / added
    in_flight: Plan | None = None
    scheduling, updating, ended = [], [], 0
    gc.collect()
    for step in range(OUTPUT + steps):
        start = time.perf_counter()
        plan = scheduler.schedule()
        middle = time.perf_counter()
        if in_flight is not None:
            for sampled in scheduler.update(in_flight, [step % 50000] * len(in_flight.rows)):
                ended += sampled.finish_reason is not None
        end = time.perf_counter()
        in_flight = plan
        scheduler.abort(str(added - 1))
        while scheduler.num_waiting < waiting:
            add()
        if step >= OUTPUT:  # past the first wave
            scheduling.append((middle - start) * 1e3)
            updating.append((end - middle) * 1e3)
    both = sorted(a + b for a, b in zip(scheduling, updating, strict=True))
    return {
        "policy": policy,
        "hash": algorithm,
        "rows": rows,
        "waiting": waiting,
        "schedule_ms": round(statistics.median(scheduling), 4),
        "update_ms": round(statistics.median(updating), 4),
        "step_ms": round(statistics.median(both), 4),
        "step_p99_ms": round(both[int(len(both) * 0.99)], 4),
        "us_per_row": round(statistics.median(both) * 1e3 / rows, 3),
        "add_ms": round(add_ms, 4),
        "finished": ended,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--waiting", type=int, nargs="+", default=[10, 100_000])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--json", type=Path, help="also write the results here")
    arguments = parser.parse_args()
    results = [
        measure(arguments.rows, waiting, arguments.steps, policy=policy, algorithm="sha256")
        for policy in ("fcfs", "priority")
        for waiting in arguments.waiting
    ]
    results.append(measure(arguments.rows, arguments.waiting[0], arguments.steps, policy="fcfs", algorithm="xxhash"))
    columns = list(results[0])
    print("  ".join(f"{name:>12}" for name in columns))
    for result in results:
        print("  ".join(f"{result[name]:>12}" for name in columns))
    if arguments.json:
        report = {"benchmark": "scheduler", "python": platform.python_version(), "results": results}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
