"""What clients of a served model see on one H200, beside vLLM: `jaxengine serve` under `jaxengine bench serve`.

    python -m benchmarks.h200_serving --configs DIRECTORY --out results.json [--only llama-3.1-8b qwen3-0.6b]

DIRECTORY holds llama-3.1-8b.json and qwen3-0.6b.json (published config.json files); weights are random, and the
tokenizer is the packaged model's, widened by invented words to the model's vocabulary. `--only demo` tries everything
in small with the packaged model's own config, on any machine.

Each result has the server's own times beside the client's: milliseconds a request in its queue, until its first token
and after it, by /metrics, and the share of the prompts that the prefix cache held.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.served import COMMAND, TIMES, Served, about, served
from torch_compat import hub

KEPT = (
    "completed", "failed", "duration", "request_throughput", "output_throughput", "median_ttft_ms", "p99_ttft_ms",
    "median_tpot_ms", "p99_tpot_ms", "median_itl_ms", "p99_itl_ms", "mean_ttft_ms", "max_concurrent_requests",
)  # fmt: skip


@dataclass(frozen=True)
class Workload:
    """One run of `bench serve`: so many at once, or so many a second. vllm: what vLLM 0.26 reached with its defaults,
    both processes on one machine of the kind: req/s, tok/s, then median and p99 of ttft, tpot and itl in ms."""

    requests: int
    input_len: int
    output_len: int
    concurrency: int | None = None
    rate: float | None = None
    vllm: tuple[float, ...] = field(default=())

    @property
    def name(self) -> str:
        how = f"concurrency {self.concurrency}" if self.rate is None else f"{self.rate:g} req/s"
        return f"{self.input_len}->{self.output_len}, {how} ({self.requests} requests)"

    @property
    def flags(self) -> list[str]:
        lengths = ["--random-input-len", self.input_len, "--random-output-len", self.output_len]
        how = ["--max-concurrency", self.concurrency] if self.rate is None else ["--request-rate", self.rate]
        return [str(word) for word in ("--num-prompts", self.requests, *lengths, *how)]


def at_rates(*rates: float, seconds: float = 15) -> list[Workload]:
    return [Workload(int(rate * seconds), 1024, 128, rate=rate) for rate in rates]


MODELS: dict[str, list[Workload]] = {
    "llama-3.1-8b": [
        Workload(16, 1024, 128, 1, vllm=(1.55, 197.8, 22.2, 29.6, 4.91, 4.92, 4.93, 5.49)),
        Workload(256, 1024, 128, 32, vllm=(23.05, 2950.2, 241.0, 715.0, 8.67, 11.55, 6.29, 87.6)),
        Workload(1000, 1024, 128, 256, vllm=(36.68, 4695.2, 716.1, 2530.2, 52.6, 62.95, 18.61, 201.4)),
        Workload(1000, 1024, 128, 1000),
        *at_rates(8, 16, 24, 32, 40),
    ],
    "qwen3-0.6b": [
        Workload(8, 128, 256, 1, vllm=(2.05, 525.5, 14.6, 18.7, 1.79, 2.18, 1.75, 2.78)),
        Workload(1000, 128, 256, 256, vllm=(73.48, 18811.2, 300.2, 505.6, 12.25, 14.02, 11.51, 24.71)),
    ],
    "demo": [Workload(4, 64, 8, 1), Workload(16, 64, 8, 8), Workload(10, 64, 8, rate=5.0)],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", type=Path, help="not needed for the demo")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=MODELS, default=["llama-3.1-8b", "qwen3-0.6b"])
    parser.add_argument("--serve", default="", help="further flags of `jaxengine serve`")
    parser.add_argument("--first", type=int, help="no more than so many workloads of each model")
    parser.add_argument(
        "--one-seed",
        action="store_true",
        help="seed 0 for all workloads, as vLLM's numbers were made: each begins with the prompts of the one before, "
        "which the prefix cache holds by then; otherwise each has prompts of its own",
    )
    arguments = parser.parse_args()
    results = about("h200_serving", one_seed=arguments.one_seed)
    flags = ["--load-format", "dummy", *arguments.serve.split()]
    for name in arguments.only:
        config = hub.resolve("demo") / "config.json" if name == "demo" else arguments.configs / f"{name}.json"
        with dummy_model(config) as model, served(str(model), flags) as server:
            results[name] = {"ready_s": server.ready_s}
            print(f"| {name}, ready after {server.ready_s:.0f} s | req/s | tok/s | ttft | tpot | itl, ms p50 / p99 |")
            print("|---|---|---|---|---|---|", flush=True)
            for place, workload in enumerate(MODELS[name][: arguments.first]):
                seed = 0 if arguments.one_seed else place  # of its own: none finds the prompts of another
                results[name][workload.name] = measured = measure(server, workload, seed)
                print(row(workload.name, measured), flush=True)
                if workload.vllm:
                    print(row("vLLM", measured["vllm"]), flush=True)
                arguments.out.write_text(json.dumps(results, indent=1) + "\n")


@contextlib.contextmanager
def dummy_model(config: Path) -> Iterator[Path]:
    """A directory with a config and a tokenizer of its vocabulary."""
    with tempfile.TemporaryDirectory() as made:
        model, demo = Path(made), hub.resolve("demo")
        shutil.copy(config, model / "config.json")
        shutil.copy(demo / "tokenizer_config.json", model)
        tokenizer = json.loads((demo / "tokenizer.json").read_text())
        vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
        taken = {*vocabulary.values(), *(token["id"] for token in tokenizer["added_tokens"])}
        size = json.loads(config.read_text())["vocab_size"]
        vocabulary |= {f"Ġ{word(id)}": id for id in range(size) if id not in taken}
        (model / "tokenizer.json").write_text(json.dumps(tokenizer))
        yield model


def word(number: int) -> str:
    """Five letters, and no word of a language: nothing else is spelt so."""
    letters = ""
    for _ in range(4):
        number, letter = divmod(number, 26)
        letters += chr(ord("a") + letter)
    return "q" + letters


def measure(server: Served, workload: Workload, seed: int) -> dict[str, Any]:
    """What `bench serve` says, what the server says of the same requests (and of that on trial), and the processor
    time that it took, by process."""
    with tempfile.TemporaryDirectory() as directory:
        kept = ["--save-result", "--result-dir", directory, "--result-filename", "result.json"]
        command = [*COMMAND, "bench", "serve", "--port", str(server.port), "--tokenizer", "demo", "--ignore-eos"]
        sums, before = server.sums(), server.processor_seconds()
        command += ["--disable-tqdm", "--seed", str(seed), *workload.flags, *kept]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"bench serve failed:\n{done.stdout}\n{done.stderr}")
        told = json.loads((Path(directory) / "result.json").read_text())
    results = {name: told[name] for name in KEPT}
    results["processor_us_a_token"] = {
        name: (seconds - before[name]) / max(told["total_output_tokens"], 1) * 1e6
        for name, seconds in server.processor_seconds().items()
    }
    results["server"] = of_server(sums, server.sums())
    if workload.vllm:
        results["vllm"] = dict(zip(KEPT[3:], workload.vllm, strict=False))
    return results


def of_server(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """Means of what the server counted in between."""
    counted = {name: value - before[name] for name, value in after.items()}
    told = {
        f"mean_{name}_ms": counted[f"{name}_seconds_sum"] / max(counted[f"{name}_seconds_count"], 1) * 1e3
        for name in TIMES
    }
    return told | {
        "requests": counted["time_to_first_token_seconds_count"],
        "cached_share": counted["prefix_cache_hits_total"] / max(counted["prefix_cache_queries_total"], 1),
    }


def row(name: str, values: dict[str, Any]) -> str:
    pairs = [f"{values[f'median_{m}_ms']:.4g} / {values[f'p99_{m}_ms']:.4g}" for m in ("ttft", "tpot", "itl")]
    rates = [f"{values[key]:.4g}" for key in ("request_throughput", "output_throughput")]
    failed = f", {values['failed']} failed" if values.get("failed") else ""
    return f"| {name}{failed} | " + " | ".join([*rates, *pairs]) + " |"


if __name__ == "__main__":
    main()
