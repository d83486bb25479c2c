"""`jaxengine bench serve`: latency and throughput of any server of OpenAI's protocol, as its clients see them.

The workload comes from `datasets.py` and `texts.py`, goes out by `traffic.py`, and is summed up by
`serving_numbers.py`.
"""

from __future__ import annotations

import asyncio
import json
import math
from datetime import datetime
from pathlib import Path
from typing import Any

import typer

from serving.commands.bench.client import Outcome, Target, send
from serving.commands.bench.connections import connections
from serving.commands.bench.datasets import Sample, prefix_repetition_samples, random_samples, sharegpt_samples
from serving.commands.bench.serve_options import ServeOptions, with_serve_options
from serving.commands.bench.serving_numbers import DETAILS, numbers, table
from serving.commands.bench.texts import LocalTokens, Prompt, ServerTokens, TextTokens, as_prompt, find_tokenizer
from serving.commands.bench.traffic import departures, run
from serving.commands.remote import Remote, ServerError, failures_in_one_line, headers
from serving.http_server import event_loop


@with_serve_options
def serve(options: ServeOptions) -> None:
    """Measure a running server, with vLLM's workloads, definitions and JSON keys.

    jaxengine bench serve --port 8000 --random-input-len 512 --num-prompts 200 --request-rate 10 --ignore-eos
    """
    with failures_in_one_line(), Remote(options.url, options.api_key, options.model) as server:
        found = find_tokenizer(options.tokenizer, server)
        tokens: TextTokens = LocalTokens(found[1]) if found else ServerTokens(server)
        prompts = workload(options, tokens)
        with asyncio.Runner(loop_factory=event_loop) as runner:
            outcomes, seconds = runner.run(measure(options, server.model, prompts))
        for outcome in outcomes:
            if outcome.success and outcome.output_tokens is None:
                outcome.output_tokens = len(tokens.encode(outcome.text))
    results = numbers(
        outcomes, seconds, goodput=options.limits, metrics=options.metrics, percentiles=options.percentiles
    )
    typer.echo("\n".join(table(results, options.metrics, options.percentiles)))
    for error in sorted({outcome.error for outcome in outcomes if outcome.error})[:3]:
        typer.secho(f"failed: {error}", err=True)
    if options.save_result or options.save_detailed:
        save(options, server.model, found[0] if found else server.model, len(prompts), results)


def workload(options: ServeOptions, tokens: TextTokens) -> list[Prompt]:
    vocabulary: dict[str, Any] = {
        "vocab_size": tokens.vocab_size,
        "special_ids": tokens.left_out,
        "seed": options.seed,
    }
    if options.dataset_name == "sharegpt":
        return _conversations(options, tokens)
    if options.dataset_name == "random":
        samples = random_samples(
            options.num_prompts,
            input_len=options.input_len or options.random_input_len,
            output_len=options.output_len or options.random_output_len,
            prefix_len=options.random_prefix_len,
            range_ratio=options.random_range_ratio,
            **vocabulary,
        )
    else:
        samples = prefix_repetition_samples(
            options.num_prompts,
            prefix_len=options.prefix_repetition_prefix_len,
            suffix_len=options.prefix_repetition_suffix_len,
            num_prefixes=options.prefix_repetition_num_prefixes,
            output_len=options.output_len or options.prefix_repetition_output_len,
            **vocabulary,
        )
    return [as_prompt(sample, tokens) for sample in samples]


def _conversations(options: ServeOptions, tokens: TextTokens) -> list[Prompt]:
    if not isinstance(tokens, LocalTokens):
        raise ValueError("sharegpt is measured in tokens; name a --tokenizer")

    def text(sample: Sample) -> str:
        return tokens.tokenizer.decode(sample.prompt_token_ids, skip_special_tokens=True)

    length = options.output_len or options.sharegpt_output_len
    file = Path(options.dataset_path or "")
    samples = sharegpt_samples(file, options.num_prompts, tokens.tokenizer, output_len=length, seed=options.seed)
    return [Prompt(text(sample), len(sample.prompt_token_ids), sample.output_len) for sample in samples]


async def measure(options: ServeOptions, model: str, prompts: list[Prompt]) -> tuple[list[Outcome], float]:
    """Every prompt's outcome and the seconds for all. Raises ServerError if a first request on trial fails."""
    extra = {"temperature": options.temperature, **(options.extra_body or {})}
    target = Target(options.path, model, options.backend == "openai-chat", options.ignore_eos, extra)
    times = departures(len(prompts), options.request_rate, options.burstiness, options.seed)
    async with connections(options.url, headers(options.api_key)) as opened:
        async with opened.one() as http:
            trial = await send(http, target, prompts[0])
        if not trial.success:
            raise ServerError(f"the first request failed, so nothing was measured: {trial.error}")
        return await run(opened, target, prompts, times, options.max_concurrency, not options.disable_tqdm)


def save(options: ServeOptions, model: str, tokenizer: str, num_prompts: int, results: dict[str, Any]) -> None:
    """One JSON file with vLLM's keys; the details only if asked for."""
    rate: float | str = "inf" if math.isinf(options.request_rate) else options.request_rate
    date = datetime.now().strftime("%Y%m%d-%H%M%S")
    about = {
        "date": date,
        "endpoint_type": options.backend,
        "backend": options.backend,
        "label": options.label,
        "model_id": model,
        "tokenizer_id": tokenizer,
        "num_prompts": num_prompts,
        "request_rate": rate,
        "burstiness": options.burstiness,
        "max_concurrency": options.max_concurrency,
    }
    kept = {name: value for name, value in results.items() if options.save_detailed or name not in DETAILS}
    concurrency = f"-concurrency{options.max_concurrency}" if options.max_concurrency else ""
    name = f"{options.label or options.backend}-{rate}qps{concurrency}-{Path(model).name}-{date}.json"
    file = Path(options.result_dir) / (options.result_filename or name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(about | kept) + "\n", encoding="utf-8")
    typer.echo(f"Results are in {file}")
