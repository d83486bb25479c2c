"""The numbers of `bench serve` from its outcomes, with vLLM's definitions and JSON keys; times in milliseconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from serving.commands.bench.client import Outcome

NAMES = {
    "ttft": "Time to First Token",
    "tpot": "Time per Output Token (excl. 1st token)",
    "itl": "Inter-token Latency",
    "e2el": "End-to-end Latency",
}
DETAILS = ("input_lens", "output_lens", "ttfts", "itls", "start_times", "generated_texts", "errors")


def numbers(
    outcomes: Sequence[Outcome],
    seconds: float,
    *,
    goodput: Mapping[str, float] | None = None,
    metrics: Sequence[str] = ("ttft", "tpot", "itl"),
    percentiles: Sequence[float] = (99,),
) -> dict[str, Any]:
    """All of vLLM's keys, the details included. goodput: most milliseconds by metric. output_tokens must be known.

    tpot is the time after the first token over the tokens after it: of requests with two tokens or more.
    """
    done = [outcome for outcome in outcomes if outcome.success]
    new = sum(map(_new_tokens, done))
    of_prompts = sum(outcome.prompt_tokens for outcome in done)
    good = sum(_is_good(outcome, goodput) for outcome in done) if goodput else None
    found: dict[str, Any] = {
        "duration": seconds,
        "completed": len(done),
        "failed": len(outcomes) - len(done),
        "total_input_tokens": of_prompts,
        "total_output_tokens": new,
        "request_throughput": len(done) / seconds,
        "request_goodput": None if good is None else good / seconds,
        "output_throughput": new / seconds,
        "total_token_throughput": (of_prompts + new) / seconds,
        "input_lens": [outcome.prompt_tokens for outcome in outcomes],
        "output_lens": [_new_tokens(outcome) if outcome.success else 0 for outcome in outcomes],
        "ttfts": [outcome.ttft for outcome in outcomes],
        "itls": [outcome.itl for outcome in outcomes],
        "start_times": [outcome.start for outcome in outcomes],
        "generated_texts": [outcome.text for outcome in outcomes],
        "errors": [outcome.error for outcome in outcomes],
    }
    found |= _peaks(done)
    times = {
        "ttft": [outcome.ttft for outcome in done],
        "tpot": [_tpot(outcome) for outcome in done if _new_tokens(outcome) > 1],
        "itl": [gap for outcome in done for gap in outcome.itl],
        "e2el": [outcome.latency for outcome in done],
    }
    for metric in metrics:
        values = np.array(times[metric] or [0.0]) * 1000
        found[f"mean_{metric}_ms"] = float(np.mean(values))
        found[f"median_{metric}_ms"] = float(np.median(values))
        found[f"std_{metric}_ms"] = float(np.std(values))
        for percentage in percentiles:
            found[f"p{percentage:g}_{metric}_ms"] = float(np.percentile(values, percentage))
    return found


def _new_tokens(outcome: Outcome) -> int:
    return outcome.output_tokens or 0


def _tpot(outcome: Outcome) -> float:
    after_first = _new_tokens(outcome) - 1
    return (outcome.latency - outcome.ttft) / after_first if after_first > 0 else 0.0


def _is_good(outcome: Outcome, most: Mapping[str, float]) -> bool:
    times = {"ttft": outcome.ttft, "tpot": _tpot(outcome), "e2el": outcome.latency}
    return all(times[metric] * 1000 <= limit for metric, limit in most.items())


def _peaks(done: Sequence[Outcome]) -> dict[str, Any]:
    """The best second's chunks, and the most requests that share a second; seconds count from the first start."""
    if not done:
        return {"max_output_tokens_per_s": 0.0, "max_concurrent_requests": 0}
    first = min(outcome.start for outcome in done)
    length = int(max(outcome.start + outcome.latency for outcome in done) - first) + 1
    chunks, open_requests = np.zeros(length), np.zeros(length, int)
    for outcome in done:
        start = outcome.start - first
        arrivals = np.minimum(start + outcome.ttft + np.cumsum([0.0, *outcome.itl]), length - 0.5)
        np.add.at(chunks, arrivals.astype(int), 1)
        open_requests[int(start) : int(start + outcome.latency) + 1] += 1
    return {"max_output_tokens_per_s": float(chunks.max()), "max_concurrent_requests": int(open_requests.max())}


def table(found: Mapping[str, Any], metrics: Sequence[str], percentiles: Sequence[float]) -> list[str]:
    """Lines for the terminal, as vLLM writes them."""
    rows: list[tuple[str, Any] | str] = [
        "Serving Benchmark Result",
        ("Successful requests:", found["completed"]),
        ("Failed requests:", found["failed"]),
        ("Benchmark duration (s):", found["duration"]),
        ("Total input tokens:", found["total_input_tokens"]),
        ("Total generated tokens:", found["total_output_tokens"]),
        ("Request throughput (req/s):", found["request_throughput"]),
        ("Request goodput (req/s):", found["request_goodput"]),
        ("Output token throughput (tok/s):", found["output_throughput"]),
        ("Peak output token throughput (tok/s):", found["max_output_tokens_per_s"]),
        ("Peak concurrent requests:", found["max_concurrent_requests"]),
        ("Total token throughput (tok/s):", found["total_token_throughput"]),
    ]
    for metric in metrics:
        rows.append(NAMES[metric])
        for kind in ("mean", "median", *(f"p{percentage:g}" for percentage in percentiles)):
            rows.append((f"{kind.capitalize()} {metric.upper()} (ms):", found[f"{kind}_{metric}_ms"]))
    return [line for row in rows if (line := _line(row))] + ["=" * 50]


def _line(row: tuple[str, Any] | str) -> str | None:
    if isinstance(row, str):
        return f" {row} ".center(50, "-" if row in NAMES.values() else "=")
    name, value = row
    if value is None:
        return None
    return f"{name:<40} {value:<10.2f}" if isinstance(value, float) else f"{name:<40} {value:<10}"
