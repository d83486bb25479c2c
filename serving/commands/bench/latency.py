"""`jaxengine bench latency`: the time of one batch from its first prompt token to its last output token."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from serving.commands.bench.datasets import random_prompts
from serving.commands.bench.report import percentiles, write_json
from serving.commands.bench.run import generate
from serving.options import with_engine_options


@with_engine_options(without=(), defaults={"enable_prefix_caching": False})
def latency(
    engine: dict[str, Any],
    input_len: Annotated[int, typer.Option(min=1, help="Prompt tokens.")] = 32,
    output_len: Annotated[int, typer.Option(min=1, help="Tokens to generate.")] = 128,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts at once.")] = 8,
    n: Annotated[int, typer.Option(min=1, help="Sequences per prompt.")] = 1,
    use_beam_search: Annotated[bool, typer.Option("--use-beam-search", help="n beams per prompt.")] = False,
    num_iters_warmup: Annotated[int, typer.Option(min=0, help="Batches that are not measured.")] = 10,
    num_iters: Annotated[int, typer.Option(min=1, help="Batches that are measured.")] = 30,
    disable_detokenize: Annotated[bool, typer.Option("--disable-detokenize", help="Make no text.")] = False,
    output_json: Annotated[Path | None, typer.Option(help="File for the results.")] = None,
) -> None:
    """Measure the latency of a single batch."""
    from jaxengine.llm import LLM
    from jaxengine.request import BeamSearchParams, SamplingParams

    with LLM(**engine) as llm:
        vocab_size = min(10_000, llm.engine.model_config.vocab_size)
        prompts = random_prompts(np.random.default_rng(0), batch_size, input_len, vocab_size)
        params = SamplingParams(
            n=n, temperature=1.0, ignore_eos=True, max_tokens=output_len, detokenize=not disable_detokenize
        )
        beams = BeamSearchParams(beam_width=n, max_tokens=output_len, ignore_eos=True)

        def run() -> float:
            if not use_beam_search:
                return generate(llm, prompts, params)[1]
            start = time.perf_counter()
            llm.beam_search(prompts, beams)
            return time.perf_counter() - start

        _iterate("Warm-up", num_iters_warmup, run)
        latencies = _iterate("Measuring", num_iters, run)
    results = {
        "avg_latency": float(np.mean(latencies)),
        "latencies": latencies,
        "percentiles": percentiles(latencies),
    }
    typer.echo(f"Avg latency: {results['avg_latency']} seconds")
    for percentage, seconds in percentiles(latencies).items():
        typer.echo(f"{percentage}% percentile latency: {seconds} seconds")
    write_json(output_json, results)


def _iterate(description: str, count: int, run: Any) -> list[float]:
    from tqdm import trange

    return [run() for _ in trange(count, desc=f"{description} iterations", leave=False)]
