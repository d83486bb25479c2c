"""Runs prompts through the offline API and takes the time. `latency`, `throughput` and benchmarks/engine.py use it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxengine.llm import LLM
    from jaxengine.request import RequestOutput, SamplingParams


def generate(
    llm: LLM,
    prompts: Sequence[list[int]],
    params: SamplingParams | Sequence[SamplingParams],
    *,
    progress: bool = False,
) -> tuple[list[RequestOutput], float]:
    """The outputs of all prompts at once, and the seconds until the last was finished."""
    start = time.perf_counter()
    return llm.generate(list(prompts), params, use_tqdm=progress), time.perf_counter() - start


def numbers(outputs: list[RequestOutput], elapsed: float) -> dict[str, float]:
    """vLLM's keys. total_num_tokens: of prompts and outputs."""
    total = sum(map(prompt_tokens, outputs)) + sum(map(new_tokens, outputs))
    return {
        "elapsed_time": elapsed,
        "num_requests": len(outputs),
        "total_num_tokens": total,
        "requests_per_second": len(outputs) / elapsed,
        "tokens_per_second": total / elapsed,
    }


def prompt_tokens(output: RequestOutput) -> int:
    return len(output.prompt_token_ids or ())


def new_tokens(output: RequestOutput) -> int:
    return sum(len(completion.token_ids) for completion in output.outputs)
