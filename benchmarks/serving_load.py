"""Thousands of streams on one server: half of them cut at random, then many short requests; what is left behind.

    python -m benchmarks.serving_load [--streams 1000] [--requests 20000] [--out results.json]

Starts `jaxengine serve demo` on a Unix socket. Says whether every uncut stream was whole, what the metrics show when
all have gone, and how much memory the processes hold before and after.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

TOKENS = 60  # of a stream
AT_ONCE = 64  # short requests


async def measure(http: httpx.AsyncClient, pid: int, streams: int, requests: int) -> dict[str, Any]:
    await one_stream(http, random.Random(0), cut=False)
    before = resident(pid)
    start, source = time.perf_counter(), random.Random(1)
    made = [one_stream(http, source, cut=number % 2 == 1) for number in range(streams)]
    tokens = await asyncio.gather(*made)
    seconds = time.perf_counter() - start
    results: dict[str, Any] = {
        "streams": streams,
        "streams_s": seconds,
        "whole": sum(count == TOKENS for count in tokens[::2]) == len(tokens[::2]),
        "left_after_streams": await left(http),
        "resident_mb": {"before": before, "after_streams": resident(pid)},
    }
    print(json.dumps(results), flush=True)
    start, gate = time.perf_counter(), asyncio.Semaphore(AT_ONCE)

    async def short(number: int) -> int:
        async with gate:
            body = {"prompt": f"{number}", "max_tokens": 2, "temperature": 0}
            return (await http.post("/v1/completions", json=body)).status_code

    for part in range(4):
        done = await asyncio.gather(*(short(part * requests // 4 + i) for i in range(requests // 4)))
        assert set(done) == {200}
        results["resident_mb"][f"after_{(part + 1) * requests // 4}_requests"] = resident(pid)
        print(json.dumps(results["resident_mb"]), flush=True)
    seconds = time.perf_counter() - start
    return results | {"requests": requests, "requests_per_second": requests / seconds, "left": await left(http)}


async def one_stream(http: httpx.AsyncClient, source: random.Random, cut: bool) -> int:
    """Tokens that came."""
    body = {"prompt": "1, 2, 3,", "max_tokens": TOKENS, "ignore_eos": True, "stream": True, "return_token_ids": True}
    enough, count = source.randrange(1, TOKENS) if cut else TOKENS + 1, 0
    async with http.stream("POST", "/v1/completions", json=body) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                count += sum(len(choice.get("token_ids") or ()) for choice in json.loads(line[6:])["choices"])
            if count >= enough:
                break
    return count


async def left(http: httpx.AsyncClient) -> dict[str, float]:
    """Gauges of an idle server, which should all be zero."""
    await asyncio.sleep(2)
    text = (await http.get("/metrics")).text
    wanted = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: sum(float(line.split()[-1]) for line in lines if f":{name}" in line) for name in wanted}


def resident(pid: int) -> dict[str, float]:
    """Megabytes of the process that answers HTTP and of its children, by command."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {"http": _megabytes(pid), "engine": sum(_megabytes(int(child)) for child in children)}


def _megabytes(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def main(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as directory:
        socket = str(Path(directory) / "socket")
        command = [
            sys.executable,
            "-m",
            "serving.cli",
            "serve",
            "demo",
            "--uds",
            socket,
            "--disable-log-requests",
            "--timeout-keep-alive",
            "600",
        ]
        server = subprocess.Popen([*command, "--no-use-tqdm-on-load"])
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=AT_ONCE)
        transport = httpx.AsyncHTTPTransport(uds=socket, limits=limits)
        async with httpx.AsyncClient(transport=transport, base_url="http://server", timeout=600) as http:
            while not await ready(http):
                assert server.poll() is None, "the server has ended"
                await asyncio.sleep(0.2)
            results = await measure(http, server.pid, arguments.streams, arguments.requests)
        server.send_signal(signal.SIGTERM)
        results |= {"date": time.strftime("%Y-%m-%d"), "exit_status": server.wait(60)}
    print(json.dumps(results, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1))


async def ready(http: httpx.AsyncClient) -> bool:
    try:
        return (await http.get("/ready")).status_code == 200
    except httpx.TransportError:
        return False


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--out", type=Path)
    asyncio.run(main(parser.parse_args()))
