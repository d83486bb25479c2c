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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx

COMMAND = [sys.executable, "-m", "serving.cli"]
START_SECONDS = 400.0
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
        lines = [line for line in self.metrics().splitlines() if not line.startswith("#")]
        return {name: sum(float(line.split()[-1]) for line in lines if f":{name}" in line) for name in GAUGES}

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
