"""Thousands of streams on one server: half of them cut at random, then many short requests; what is left behind.

    python -m benchmarks.serving_load [--streams 1000] [--requests 20000] [--out results.json]

Starts `jaxengine serve demo`. Says whether every uncut stream was whole, what the metrics show when all have gone, how
much memory the processes hold before and after, and whose processor time bounds the rate.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import time
from pathlib import Path
from typing import Any

from benchmarks.served import Served, about, processor_seconds, report, served
from serving.commands.bench.connections import Connections, connections
from serving.commands.events import EventReader
from serving.http_server import event_loop

TOKENS = 60  # of a stream
AT_ONCE = 64  # short requests
PARTS = 10  # after each of which memory is looked at
FLAGS = ["--timeout-keep-alive", "600", "--max-model-len", "512", "--max-num-seqs", "64"]


async def measure(server: Served, streams: int, requests: int) -> dict[str, Any]:
    async with connections(server.url, {}) as opened:
        await one_stream(opened, random.Random(0), cut=False)
        memory = {"before": server.resident_mb()}
        start, source = time.perf_counter(), random.Random(1)
        tokens = await asyncio.gather(*(one_stream(opened, source, cut=n % 2 == 1) for n in range(streams)))
        results: dict[str, Any] = {
            "streams": streams,
            "streams_s": time.perf_counter() - start,
            "whole": all(count == TOKENS for count in tokens[::2]),
            "left_after_streams": server.left(),
            "resident_mb": memory,
        }
        memory["after_streams"] = server.resident_mb()
        print(json.dumps(results), flush=True)
        gate, part = asyncio.Semaphore(AT_ONCE), requests // PARTS
        start, before, own = time.perf_counter(), server.processor_seconds(), processor_seconds(os.getpid())
        for number in range(1, PARTS + 1):
            done = await asyncio.gather(*(short(opened, gate, number * part + i) for i in range(part)))
            assert set(done) == {200}
            memory[f"after_{number * part}_requests"] = server.resident_mb()
            print(json.dumps(memory[f"after_{number * part}_requests"]), flush=True)
    seconds, spent = time.perf_counter() - start, server.processor_seconds()
    spent = {name: spent[name] - before[name] for name in spent} | {"client": processor_seconds(os.getpid()) - own}
    return results | {
        "requests": part * PARTS,
        "requests_per_second": part * PARTS / seconds,
        "processor_ms_a_request": {name: s / (part * PARTS) * 1e3 for name, s in spent.items()},
        "left": server.left(),
    }


async def short(opened: Connections, gate: asyncio.Semaphore, number: int) -> int:
    body = {"prompt": f"{number}", "max_tokens": 2, "temperature": 0}
    async with gate, opened.one() as http:
        return (await http.post("/v1/completions", json=body)).status_code


async def one_stream(opened: Connections, source: random.Random, cut: bool) -> int:
    """Chunks with a token that came."""
    body = {"prompt": "1, 2, 3,", "max_tokens": TOKENS, "ignore_eos": True, "stream": True}
    body["stream_options"] = {"include_usage": True}
    enough, count, events = source.randrange(1, TOKENS) if cut else TOKENS + 1, 0, EventReader()
    async with opened.one() as http, http.stream("POST", "/v1/completions", json=body) as answer:
        async for data in answer.aiter_raw():
            for event in events.feed(data):
                told = event.usage and event.usage.completion_tokens
                count = told or count + bool(event.choices)
            if count >= enough:
                break
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with served("demo", FLAGS) as server, asyncio.Runner(loop_factory=event_loop) as runner:
        results = about("serving_load", server=FLAGS) | runner.run(
            measure(server, arguments.streams, arguments.requests)
        )
    report(results, arguments.out)


if __name__ == "__main__":
    main()
