"""The whole table on one H200: start-up, decode steps, first tokens and throughput, beside vLLM's and the floor.

    python -m benchmarks.h200 --configs DIRECTORY --out results.json [--only llama-3.1-8b qwen3-0.6b]

DIRECTORY holds llama-3.1-8b.json and qwen3-0.6b.json (published config.json files); weights are random. Each model
starts twice in a process of its own: once with nothing cached, and measures; once more for the warm start.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.engine import dummy_model
from serving.commands.bench.startup import run_child


@dataclass(frozen=True)
class Line:
    """One number of the table. vLLM 0.26 with its defaults on the same GPU and workload; the floor is what reading
    weights and keys at 4.0 TB/s, or multiplying at 784 TFLOP/s, would take."""

    what: str
    key: str  # of engine.py's results
    field: str
    unit: str
    vllm: float
    target: float
    floor: float | None = None


LLAMA = (
    Line("decode step, 1 row, context 1,024", "decode_step_b1_ctx1024", "ms", "ms", 4.94, 4.3, 3.8),
    Line("32 rows", "decode_step_b32_ctx1024", "ms", "ms", 6.34, 5.4, 4.8),
    Line("128 rows", "decode_step_b128_ctx1024", "ms", "ms", 10.2, 8.9, 8.1),
    Line("256 rows", "decode_step_b256_ctx1024", "ms", "ms", 17.5, 15.6, 12.4),
    Line("first token, 8,192 tokens", "ttft_8192", "miss_ms", "ms", 212.9, 198),
    Line("the same prompt cached", "ttft_8192", "hit_ms", "ms", 13.5, 9),
    Line("1,000 × 1,024 → 128", "throughput_1000_1024_128", "requests_per_second", "req/s", 36.7, 37.5, 39),
    Line("500 × 128 → 1,024", "throughput_500_128_1024", "output_tokens_per_second", "tok/s", 18_330, 21_000, 23_000),
    Line("200 × 2,048 → 2,048", "throughput_200_2048_2048", "output_tokens_per_second", "tok/s", 6_306, 6_450, 6_600),
)
QWEN = (
    Line("decode step, 1 row, context 1,024", "decode_step_b1_ctx1024", "ms", "ms", 2.15, 0.9, 0.33),
    Line("32 rows", "decode_step_b32_ctx1024", "ms", "ms", 2.88, 1.6, 1.2),
    Line("256 rows", "decode_step_b256_ctx1024", "ms", "ms", 9.8, 8.6, 7.8),
    Line("256 × 128 → 512", "throughput_256_128_512", "output_tokens_per_second", "tok/s", 31_949, 50_000, 64_000),
    Line("1,000 × 1,024 → 128", "throughput_1000_1024_128", "requests_per_second", "req/s", 114, 145, 166),
)
START = (
    Line("import and start, nothing cached", "cold", "s", "s", 93, 15),
    Line("import and start, programs cached", "warm", "s", "s", 93, 6),
)
MODELS: dict[str, tuple[tuple[Line, ...], str]] = {
    "llama-3.1-8b": (
        LLAMA + START,
        "--rows 1 32 128 256 --prefill 8192 --throughput 1000x1024x128 500x128x1024 200x2048x2048",
    ),
    "qwen3-0.6b": (QWEN, "--rows 1 32 256 --prefill --throughput 256x128x512 1000x1024x128"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--engine", default="{}", help="further engine arguments, as JSON")
    arguments = parser.parse_args()
    everything: dict[str, Any] = {}
    for name in arguments.only:
        lines, workloads = MODELS[name]
        everything[name] = measure(arguments.configs / f"{name}.json", workloads, json.loads(arguments.engine))
        arguments.out.write_text(json.dumps(everything, indent=1))
        print(table(name, lines, everything[name]), flush=True)


def measure(config: Path, workloads: str, engine: dict[str, Any]) -> dict[str, Any]:
    """Two processes: everything from a cold start, and a warm start."""
    with tempfile.TemporaryDirectory() as cache, dummy_model(config) as model:
        results = run(config, workloads, engine | {"compilation_cache_dir": cache})
        warm = run_child(model | results["engine"], cache)
    cold = {"s": results["launch_to_ready_s"], "import": results["import_s"], **results["startup"]}
    return results | {"cold": cold, "warm": {"s": warm["startup"], **warm}}


def run(config: Path, workloads: str, engine: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "results.json"
        command = [sys.executable, str(Path(__file__).parent / "engine.py"), "--config", str(config), "--out", str(out)]
        command += ["--engine", json.dumps(engine), "--launched", str(time.time()), *workloads.split()]
        if status := subprocess.run(command).returncode:
            print(f"{config.stem}: engine.py ended with status {status}", file=sys.stderr)
        return json.loads(out.read_text())


def table(name: str, lines: tuple[Line, ...], results: dict[str, Any]) -> str:
    rows = [f"| {name} | measured | target | vLLM | floor |", "|---|---|---|---|---|"]
    for line in lines:
        measured = results.get(line.key, {}).get(line.field)
        values = (measured, line.target, line.vllm, line.floor)
        rows.append(
            f"| {line.what} | " + " | ".join("" if v is None else f"{v:.4g} {line.unit}" for v in values) + " |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    main()
