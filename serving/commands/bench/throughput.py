"""`jaxengine bench throughput`: requests and tokens per second when all prompts are there at once."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from jaxengine.tokenizer import require_tokenizer
from serving.commands.bench.datasets import Sample, random_samples, sharegpt_samples
from serving.commands.bench.report import write_json
from serving.commands.bench.run import generate, new_tokens, numbers
from serving.options import with_engine_options

if TYPE_CHECKING:
    from jaxengine.engine import Engine
    from jaxengine.request import RequestOutput, SamplingParams

PANEL = "Workload"


@with_engine_options(without=())
def throughput(
    engine: dict[str, Any],
    dataset_name: Annotated[Literal["random", "sharegpt"], typer.Option(rich_help_panel=PANEL)] = "random",
    dataset_path: Annotated[Path | None, typer.Option(rich_help_panel=PANEL, help="File of the dataset.")] = None,
    num_prompts: Annotated[int, typer.Option(min=1, rich_help_panel=PANEL)] = 1000,
    input_len: Annotated[
        int, typer.Option("--input-len", "--random-input-len", min=1, rich_help_panel=PANEL, help="Prompt tokens.")
    ] = 1024,
    output_len: Annotated[
        int | None,
        typer.Option(
            "--output-len",
            "--random-output-len",
            min=1,
            rich_help_panel=PANEL,
            help="Tokens to generate. Default: 128 for random, the recorded answer's length for sharegpt.",
        ),
    ] = None,
    random_range_ratio: Annotated[
        float, typer.Option(min=0, max=1, rich_help_panel=PANEL, help="Spread of the lengths around those given.")
    ] = 0.0,
    random_prefix_len: Annotated[
        int, typer.Option(min=0, rich_help_panel=PANEL, help="Tokens that all prompts begin with, before input-len.")
    ] = 0,
    n: Annotated[int, typer.Option(min=1, rich_help_panel=PANEL, help="Sequences per prompt.")] = 1,
    async_engine: Annotated[
        bool, typer.Option("--async-engine", rich_help_panel=PANEL, help="Stream through the async engine.")
    ] = False,
    disable_detokenize: Annotated[
        bool, typer.Option("--disable-detokenize", rich_help_panel=PANEL, help="Make no text.")
    ] = False,
    output_json: Annotated[Path | None, typer.Option(help="File for the results.")] = None,
) -> None:
    """Measure offline throughput."""
    from jaxengine.arguments import engine_config
    from jaxengine.build import build_engine
    from jaxengine.request import SamplingParams

    running = build_engine(engine_config(**engine))
    tokenizer, seed = running.tokenizer, running.config.seed
    if dataset_name == "random":
        samples = random_samples(
            num_prompts,
            input_len=input_len,
            output_len=output_len or 128,
            vocab_size=running.model_config.vocab_size,
            special_ids=tokenizer.special_ids if tokenizer else frozenset(),
            prefix_len=random_prefix_len,
            range_ratio=random_range_ratio,
            seed=seed,
        )
    elif dataset_path is None:
        raise typer.BadParameter("sharegpt needs a file", param_hint="--dataset-path")
    else:
        tokenizer = require_tokenizer(tokenizer, "sharegpt")
        samples = sharegpt_samples(dataset_path, num_prompts, tokenizer, output_len=output_len, seed=seed)
    params = [
        SamplingParams(
            n=n, temperature=1.0, ignore_eos=True, max_tokens=s.output_len, detokenize=not disable_detokenize
        )
        for s in samples
    ]
    outputs, elapsed = (
        asyncio.run(_stream(running, samples, params)) if async_engine else _batch(running, samples, params)
    )
    report(outputs, elapsed, output_json)


def report(outputs: list[RequestOutput], elapsed: float, output_json: Path | None) -> None:
    results = numbers(outputs, elapsed)
    new = sum(map(new_tokens, outputs))
    typer.echo(
        f"Throughput: {results['requests_per_second']:.2f} requests/s, "
        f"{results['tokens_per_second']:.2f} total tokens/s, {new / elapsed:.2f} output tokens/s"
    )
    typer.echo(f"Total num prompt tokens:  {results['total_num_tokens'] - new}")
    typer.echo(f"Total num output tokens:  {new}")
    write_json(output_json, results)


def _batch(engine: Engine, samples: list[Sample], params: list[SamplingParams]) -> tuple[list[RequestOutput], float]:
    from jaxengine.llm import LLM

    with LLM.from_engine(engine) as llm:
        return generate(llm, [sample.prompt_token_ids for sample in samples], params, progress=True)


async def _stream(
    engine: Engine, samples: list[Sample], params: list[SamplingParams]
) -> tuple[list[RequestOutput], float]:
    """The last output of every request, all of them streaming at once."""
    from jaxengine.async_engine import AsyncEngine

    async with AsyncEngine(engine) as running:

        async def one(place: int) -> RequestOutput:
            prompt = samples[place].prompt_token_ids
            return [output async for output in running.generate(prompt, params[place], str(place))][-1]

        start = time.perf_counter()
        outputs = await asyncio.gather(*map(one, range(len(samples))))
        return list(outputs), time.perf_counter() - start
