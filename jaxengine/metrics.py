"""What the engine counts: plain counters, gauges and histograms under vLLM's names and buckets.

The engine and the output processor write them, `LLM.get_metrics()` and the server's /metrics read them. No client
library: a sample is a Python number.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

TTFT_BUCKETS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0,
    640.0, 2560.0,
)  # fmt: skip
TOKEN_LATENCY_BUCKETS = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
REQUEST_LATENCY_BUCKETS = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
)  # fmt: skip
ITERATION_BUCKETS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
N_BUCKETS = (1, 2, 5, 10, 20)


def one_two_five(limit: int) -> tuple[int, ...]:
    """1, 2, 5, 10, 20, 50, … up to and including what does not exceed `limit`."""
    values: list[int] = []
    power = 1
    while power <= limit:
        values += [mantissa * power for mantissa in (1, 2, 5) if mantissa * power <= limit]
        power *= 10
    return tuple(values)


@dataclass(slots=True)
class Counter:
    name: str
    help: str
    labels: dict[str, str] = field(default_factory=dict)
    value: float = 0

    def add(self, amount: float = 1) -> None:
        self.value += amount


@dataclass(slots=True)
class Gauge:
    name: str
    help: str
    labels: dict[str, str] = field(default_factory=dict)
    value: float = 0

    def set(self, value: float) -> None:
        self.value = value


@dataclass(slots=True)
class Histogram:
    """`counts[i]` observations were at most `bounds[i]` and above `bounds[i-1]`; the last count: above all."""

    name: str
    help: str
    bounds: tuple[float, ...]
    labels: dict[str, str] = field(default_factory=dict)
    counts: list[int] = field(init=False)
    sum: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        return sum(self.counts)

    @property
    def buckets(self) -> dict[str, int]:
        """Upper bound → observations at or below it, as Prometheus writes them."""
        total, cumulative = 0, {}
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            total += count
            cumulative["+Inf" if bound == float("inf") else f"{bound:g}" if bound < 1e6 else str(int(bound))] = total
        return cumulative


Metric = Counter | Gauge | Histogram
Snapshot = list[float | list[float]]


@dataclass(slots=True)
class RequestMetrics:
    """Times of one request in seconds since the epoch; None for what has not happened."""

    arrival_time: float
    first_scheduled_time: float | None = None
    first_token_time: float | None = None
    last_token_time: float | None = None
    finished_time: float | None = None
    num_generation_tokens: int = 0

    @property
    def first_token_latency(self) -> float | None:
        return None if self.first_token_time is None else self.first_token_time - self.arrival_time


class Metrics:
    """All of one engine's numbers. `values()` gives every metric once; those with labels appear once a label value."""

    def __init__(self, max_model_len: int = 131072) -> None:
        tokens = one_two_five(max_model_len)
        self.num_requests_running = Gauge("vllm:num_requests_running", "Requests in the running batch.")
        self.num_requests_waiting = Gauge("vllm:num_requests_waiting", "Requests that wait to be scheduled.")
        self.kv_cache_usage_perc = Gauge("vllm:kv_cache_usage_perc", "Share of the KV pool in use; 1 is full.")

        self.prompt_tokens = Counter("vllm:prompt_tokens", "Prompt tokens of admitted requests.")
        self.prompt_tokens_cached = Counter("vllm:prompt_tokens_cached", "Prompt tokens found in the prefix cache.")
        self.generation_tokens = Counter("vllm:generation_tokens", "Tokens generated.")
        self.num_preemptions = Counter("vllm:num_preemptions", "Times a running request gave its pages up.")
        self.prefix_cache_queries = Counter("vllm:prefix_cache_queries", "Tokens looked up in the prefix cache.")
        self.prefix_cache_hits = Counter("vllm:prefix_cache_hits", "Tokens found in the prefix cache.")
        self.request_success = {
            reason: Counter("vllm:request_success", "Finished requests.", {"finished_reason": reason})
            for reason in ("stop", "length", "abort", "error")
        }

        def seconds(name: str, help: str, bounds: tuple[float, ...] = REQUEST_LATENCY_BUCKETS) -> Histogram:
            return Histogram(f"vllm:{name}_seconds", help, bounds)

        self.time_to_first_token = seconds("time_to_first_token", "Arrival to first token.", TTFT_BUCKETS)
        self.inter_token_latency = seconds("inter_token_latency", "Between tokens.", TOKEN_LATENCY_BUCKETS)
        self.time_per_output_token = seconds(
            "request_time_per_output_token", "A request's mean time between tokens.", TOKEN_LATENCY_BUCKETS
        )
        self.e2e_latency = seconds("e2e_request_latency", "Arrival to last token.")
        self.queue_time = seconds("request_queue_time", "Arrival to first scheduled.")
        self.inference_time = seconds("request_inference_time", "First scheduled to last token.")
        self.prefill_time = seconds("request_prefill_time", "First scheduled to first token.")
        self.decode_time = seconds("request_decode_time", "First token to last token.")

        self.request_prompt_tokens = Histogram("vllm:request_prompt_tokens", "Prompt tokens of a request.", tokens)
        self.request_generation_tokens = Histogram(
            "vllm:request_generation_tokens", "Tokens generated for a request.", tokens
        )
        self.request_max_tokens = Histogram("vllm:request_params_max_tokens", "max_tokens of a request.", tokens)
        self.request_max_generation_tokens = Histogram(
            "vllm:request_max_num_generation_tokens", "Longest of a request's sequences, in tokens.", tokens
        )
        self.request_prefill_computed_tokens = Histogram(
            "vllm:request_prefill_kv_computed_tokens", "Prompt tokens computed, without those cached.", tokens
        )
        self.request_n = Histogram("vllm:request_params_n", "n of a request.", N_BUCKETS)
        self.iteration_tokens = Histogram("vllm:iteration_tokens_total", "Tokens in one step.", ITERATION_BUCKETS)

    def values(self) -> Iterator[Metric]:
        for value in vars(self).values():
            if isinstance(value, dict):
                yield from value.values()
            else:
                yield value

    def snapshot(self) -> Snapshot:
        """Everything in `values()`, as numbers that travel: a histogram is its counts and then its sum."""
        return [[*map(float, m.counts), m.sum] if isinstance(m, Histogram) else float(m.value) for m in self.values()]

    def load(self, snapshot: Snapshot) -> None:
        """Take the numbers of a snapshot in place of these."""
        for metric, numbers in zip(self.values(), snapshot, strict=True):
            if isinstance(metric, Histogram):
                assert isinstance(numbers, list)
                metric.counts, metric.sum = [int(count) for count in numbers[:-1]], numbers[-1]
            else:
                assert isinstance(numbers, float)
                metric.value = numbers

    def observe_finished(
        self,
        times: RequestMetrics,
        *,
        prompt_tokens: int,
        cached_tokens: int,
        longest: int,
        n: int,
        max_tokens: int | None,
    ) -> None:
        """One user request ended; its intervals are left out where a time is missing (it was aborted before)."""
        self.request_prompt_tokens.observe(prompt_tokens)
        self.request_generation_tokens.observe(times.num_generation_tokens)
        self.request_max_generation_tokens.observe(longest)
        self.request_prefill_computed_tokens.observe(prompt_tokens - cached_tokens)
        self.request_n.observe(n)
        if max_tokens is not None:
            self.request_max_tokens.observe(max_tokens)
        arrival, scheduled = times.arrival_time, times.first_scheduled_time
        first, last = times.first_token_time, times.last_token_time
        if scheduled is not None:
            self.queue_time.observe(scheduled - arrival)
        if first is None or last is None:
            return
        self.e2e_latency.observe(last - arrival)
        self.decode_time.observe(last - first)
        if scheduled is not None:
            self.prefill_time.observe(first - scheduled)
            self.inference_time.observe(last - scheduled)
        if longest > 1:
            self.time_per_output_token.observe((last - first) / (longest - 1))


def add_snapshots(snapshots: Iterable[Snapshot]) -> Snapshot:
    """Their sum, metric by metric; [] of none."""
    total: Snapshot = []
    for snapshot in snapshots:
        total = [_plus(a, b) for a, b in zip(total, snapshot, strict=True)] if total and snapshot else total or snapshot
    return total


def _plus(a: float | list[float], b: float | list[float]) -> float | list[float]:
    if isinstance(a, list):
        assert isinstance(b, list)
        return [x + y for x, y in zip(a, b, strict=True)]
    assert not isinstance(b, list)
    return a + b
