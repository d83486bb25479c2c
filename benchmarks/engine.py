"""The engine on one device: start-up by phase, decode step, time to first token, throughput, beside the read floor.

    python benchmarks/engine.py --config llama-3.1-8b.json --out results.json

`--config` is a config.json; weights are random (`load_format="dummy"`). A decode step is (time for 65 tokens − time
for 1 token) / 64 with the prompts in the prefix cache; every latency is the median of `--repeats`, every throughput one
run after warm-up.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

IMPORT_START = time.perf_counter()
import jax  # noqa: E402
import numpy as np  # noqa: E402

from jaxengine import LLM, SamplingParams  # noqa: E402
from serving.commands.bench.datasets import random_prompts  # noqa: E402
from serving.commands.bench.run import generate, numbers  # noqa: E402

IMPORT_SECONDS = time.perf_counter() - IMPORT_START
SAMPLING: dict[str, dict[str, Any]] = {  # what the full variant costs at the largest number of rows
    "top_k_top_p": {"top_k": 20, "top_p": 0.95},
    "penalties": {"presence_penalty": 0.5, "repetition_penalty": 1.1},
    "logprobs": {"logprobs": 5},
}
READ_BYTES_PER_SECOND = 4.0e12  # what a plain reduction reads on an H200


def main() -> None:
    arguments = parse()
    with dummy_model(arguments.config) as model:
        engine_arguments = {"max_model_len": arguments.max_model_len} | json.loads(arguments.engine)
        start, clock = time.perf_counter(), time.time()
        llm = LLM(**model, **engine_arguments)
        results = {
            "date": time.strftime("%Y-%m-%d"),
            "command": " ".join(sys.argv),
            "jax": jax.__version__,
            "device": jax.devices()[0].device_kind,
            "config": arguments.config.stem,
            "engine": engine_arguments,
            "import_s": IMPORT_SECONDS,
            "start_s": time.perf_counter() - start,
            "launch_to_ready_s": time.time() - (arguments.launched or clock - IMPORT_SECONDS),
            "startup": llm.engine.startup,
            "memory": llm.engine.memory.table().splitlines(),
        }
        print(json.dumps(results, indent=1), flush=True)
        save(results, arguments.out)
        for key, measured in measurements(Bench(llm, arguments.repeats), arguments):
            print(key, " ".join(f"{name}={value:.4g}" for name, value in measured.items()), flush=True)
            results[key] = measured
            save(results, arguments.out)
        llm.close()


@contextlib.contextmanager
def dummy_model(config: Path) -> Iterator[dict[str, Any]]:
    """Engine arguments of a model that is nothing but a config.json."""
    with tempfile.TemporaryDirectory() as directory:
        shutil.copy(config, Path(directory) / "config.json")
        yield {"model": directory, "load_format": "dummy", "skip_tokenizer_init": True}


def measurements(bench: Bench, arguments: argparse.Namespace) -> Iterator[tuple[str, dict[str, float]]]:
    for rows in arguments.rows:
        yield f"decode_step_b{rows}_ctx1024", bench.decode_step(rows, 1024)
    for name, sampling in SAMPLING.items() if arguments.sampling else ():
        rows = max(arguments.rows)
        yield f"decode_step_b{rows}_{name}", bench.decode_step(rows, 1024, **sampling)
    for length in arguments.prefill:
        yield f"ttft_{length}", bench.first_token(length)
    for spec in arguments.throughput:
        count, prompt, output = map(int, spec.split("x"))
        yield f"throughput_{count}_{prompt}_{output}", bench.throughput(count, prompt, output)
    for rows in arguments.rows if arguments.profile else ():
        bench.profile(rows, f"{arguments.profile}/{rows}")


def save(results: dict[str, Any], out: str | None) -> None:
    if out:
        Path(out).write_text(json.dumps(results, indent=1))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="a config.json")
    parser.add_argument("--max-model-len", type=int, default=10240)
    parser.add_argument("--engine", default="{}", help="further engine arguments, as JSON")
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 32, 128, 256])
    parser.add_argument("--prefill", type=int, nargs="*", default=[1024, 8192])
    parser.add_argument("--throughput", nargs="*", default=["1000x1024x128"], help="requests x prompt x output tokens")
    parser.add_argument("--sampling", action="store_true", help="also decode steps with top-k, penalties, logprobs")
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--profile", help="directory for profiles of a decode run of each of --rows")
    parser.add_argument("--launched", type=float, help="time.time() when this process was started")
    parser.add_argument("--out")
    return parser.parse_args()


class Bench:
    def __init__(self, llm: LLM, repeats: int) -> None:
        self.llm, self.repeats = llm, repeats
        self.random = np.random.default_rng(0)
        engine = llm.engine
        self.vocab_size = engine.model_config.vocab_size
        self.token_bytes = engine.memory.page_bytes / engine.memory.page_size
        self.config, self.weights = engine.model_config, engine.runner.weights
        self.multiplied = sum(array.size for name, array in self.weights.items() if name not in ("embed", "head"))

    def prompts(self, count: int, length: int) -> list[list[int]]:
        return random_prompts(self.random, count, length, self.vocab_size)

    def run(self, prompts: list[list[int]], tokens: int, **sampling: Any) -> float:
        return generate(self.llm, prompts, _params(tokens, **sampling))[1]

    def decode_step(self, rows: int, context: int, **sampling: Any) -> dict[str, float]:
        prompts = self.prompts(rows, context)
        self.run(prompts, 1)  # into the prefix cache
        one = statistics.median(self.run(prompts, 1, **sampling) for _ in range(self.repeats))
        many = statistics.median(self.run(prompts, 65, **sampling) for _ in range(self.repeats))
        floor = (self.weight_bytes(rows) + rows * (context + 32) * self.token_bytes) / READ_BYTES_PER_SECOND
        return {"ms": (many - one) / 64 * 1e3, "floor_ms": floor * 1e3, "first_ms": one * 1e3}

    def weight_bytes(self, rows: int) -> float:
        """Of the weights that a step of so many rows reads; of experts, chosen evenly, those that it expects to."""
        mixture = getattr(self.config, "mixture", None)
        chosen = 1 - (1 - mixture.router.top_k / mixture.router.experts) ** rows if mixture else 1.0
        unread = "embed" if "head" in self.weights else ""
        return sum(
            array.nbytes * (chosen if ".experts_" in name else 1)
            for name, array in self.weights.items()
            if name != unread
        )

    def first_token(self, length: int) -> dict[str, float]:
        self.run(self.prompts(1, length), 1)
        seconds = []
        for _ in range(self.repeats):
            prompts = self.prompts(1, length)
            seconds.append((self.run(prompts, 1), self.run(prompts, 1)))
        miss, hit = (statistics.median(times) for times in zip(*seconds, strict=True))
        config = self.llm.engine.model_config
        attention = 2 * length * length * config.num_heads * config.head_dim * config.num_layers  # causal: half of 4·L²
        flops = 2 * self.multiplied * length + attention
        return {"miss_ms": miss * 1e3, "hit_ms": hit * 1e3, "tflops": flops / miss / 1e12}

    def throughput(self, count: int, prompt: int, output: int) -> dict[str, float]:
        self.run(self.prompts(32, prompt), 8)
        self.llm.reset_prefix_cache()
        outputs, seconds = generate(self.llm, self.prompts(count, prompt), _params(output))
        return numbers(outputs, seconds) | {"output_tokens_per_second": count * output / seconds}

    def profile(self, rows: int, directory: str) -> None:
        prompts = self.prompts(rows, 1024)
        self.run(prompts, 1)
        self.run(prompts, 16)
        with jax.profiler.trace(directory):
            self.run(prompts, 48)


def _params(tokens: int, **sampling: Any) -> SamplingParams:
    return SamplingParams(temperature=1.0, max_tokens=tokens, ignore_eos=True, detokenize=False, **sampling)


if __name__ == "__main__":
    main()
