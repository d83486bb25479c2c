"""A server in processes of its own for the measurements of this folder: started, looked at from outside, ended."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx

COMMAND = [sys.executable, "-m", "serving.cli"]
START_SECONDS = 400.0
TIMES = ("time_to_first_token", "request_queue_time", "request_prefill_time", "request_decode_time")
SETTLED_SECONDS = 1.5  # until each process that answers HTTP has heard of what the others counted
GAUGES = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")


def about(script: str, **more: Any) -> dict[str, Any]:
    """What a result says of its making, first."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join([f"python -m benchmarks.{script}", *sys.argv[1:]]),
        "python": platform.python_version(),
        "jax": version("jax"),
        "cores": os.cpu_count(),
        **more,
    }


def report(results: dict[str, Any], out: Path | None) -> None:
    """Print them, and write them where it was asked for."""
    print(json.dumps(results, indent=1))
    if out:
        out.write_text(json.dumps(results, indent=1) + "\n")


@dataclass(frozen=True)
class Served:
    port: int
    process: subprocess.Popen[bytes]
    ready_s: float

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def processes(self) -> dict[str, list[int]]:
        """Process ids of those that answer HTTP, and of the engine."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        engine = [int(c) for c in children if b"engine_process" in Path(f"/proc/{c}/cmdline").read_bytes()]
        return {"http": [self.process.pid, *(int(c) for c in children if int(c) not in engine)], "engine": engine}

    def processor_seconds(self) -> dict[str, float]:
        return {name: sum(map(processor_seconds, pids)) for name, pids in self.processes().items()}

    def resident_mb(self) -> dict[str, float]:
        return {name: round(sum(map(resident_mb, pids)), 1) for name, pids in self.processes().items()}

    def left(self) -> dict[str, float]:
        """Gauges of an idle server, which should all be zero."""
        time.sleep(2)
        values = self.values()
        return {name: sum(value for key, value in values.items() if key.startswith(name)) for name in GAUGES}

    def sums(self) -> dict[str, float]:
        """What the server has counted so far: seconds and requests of TIMES, prompt tokens looked up and found."""
        time.sleep(SETTLED_SECONDS)
        values = self.values()
        names = [f"{name}_seconds_{what}" for name in TIMES for what in ("sum", "count")]
        return {name: values[name] for name in (*names, "prefix_cache_hits_total", "prefix_cache_queries_total")}

    def values(self) -> dict[str, float]:
        """The engine's samples of /metrics by their names; those that differ by labels are added."""
        values: dict[str, float] = defaultdict(float)
        for line in self.metrics().splitlines():
            if line.startswith("jaxengine:"):
                values[line.partition("{")[0].removeprefix("jaxengine:")] += float(line.split()[-1])
        return values

    def metrics(self) -> str:
        return httpx.get(f"{self.url}/metrics", timeout=60).text


@contextlib.contextmanager
def served(model: str, flags: Sequence[str] = ()) -> Iterator[Served]:
    """`jaxengine serve MODEL FLAGS` from when it is ready; SIGTERM at the end, which must do."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    start = time.perf_counter()
    fixed = ["--host", "127.0.0.1", "--port", str(port), "--disable-log-requests", "--no-use-tqdm-on-load"]
    process = subprocess.Popen([*COMMAND, "serve", model, *fixed, *flags])
    try:
        while not is_ready(port):
            if process.poll() is not None or time.perf_counter() - start > START_SECONDS:
                raise RuntimeError(f"the server did not become ready; its status is {process.returncode}")
            time.sleep(0.1)
        yield Served(port, process, time.perf_counter() - start)
        process.terminate()
        if status := process.wait(60):
            raise RuntimeError(f"the server ended with status {status}")
    finally:
        process.kill()
        process.wait()


def is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/ready", timeout=10).status_code == 200
    except httpx.TransportError:
        return False


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
