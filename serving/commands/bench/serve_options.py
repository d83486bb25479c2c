"""What `bench serve` is told: vLLM's flags and defaults. One field is one option; `serve.py` reads them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

import typer

from jaxengine.config import knob
from serving.flags import keyword, option, read, with_parameters

METRICS = ("ttft", "tpot", "itl", "e2el")
ENDPOINTS = {"openai": "/v1/completions", "vllm": "/v1/completions", "openai-chat": "/v1/chat/completions"}
SERVER, WORKLOAD, TRAFFIC, REPORT = "Server", "Workload", "Traffic", "Report"


@dataclass(frozen=True)
class ServeOptions:
    """Raises typer.BadParameter for values that cannot be."""

    backend: str = knob("openai", help="The protocol to speak.", group=SERVER, choices=tuple(ENDPOINTS))
    base_url: str | None = knob(None, help="In place of host and port.", group=SERVER)
    host: str = knob("127.0.0.1", help="Where the server is.", group=SERVER)
    port: int = knob(8000, help="Its port.", group=SERVER)
    endpoint: str | None = knob(None, help="Path of the requests. Default: the backend's.", group=SERVER)
    api_key: str | None = knob(None, help="Sent with every request.", group=SERVER)
    model: str | None = knob(None, help="Default: the first one that the server names.", group=SERVER)
    tokenizer: str | None = knob(
        None, help="A model's name or directory. Default: the model's if it lies here, or the server's.", group=SERVER
    )

    dataset_name: str = knob(
        "random", help="Where prompts come from.", group=WORKLOAD, choices=("random", "prefix_repetition", "sharegpt")
    )
    dataset_path: str | None = knob(None, help="File of sharegpt's conversations.", group=WORKLOAD)
    num_prompts: int = knob(1000, help="Requests to send.", group=WORKLOAD)
    input_len: int | None = knob(None, help="In place of the dataset's own prompt length.", group=WORKLOAD)
    output_len: int | None = knob(None, help="In place of the dataset's own output length.", group=WORKLOAD)
    random_input_len: int = knob(1024, help="Prompt tokens.", group=WORKLOAD)
    random_output_len: int = knob(128, help="Tokens to generate.", group=WORKLOAD)
    random_range_ratio: float = knob(0.0, help="Spread of the lengths around those given.", group=WORKLOAD)
    random_prefix_len: int = knob(0, help="Tokens that all prompts begin with, before input-len.", group=WORKLOAD)
    prefix_repetition_prefix_len: int = knob(256, help="Tokens of each prefix.", group=WORKLOAD)
    prefix_repetition_suffix_len: int = knob(256, help="Tokens after it.", group=WORKLOAD)
    prefix_repetition_num_prefixes: int = knob(10, help="How many prefixes the prompts share.", group=WORKLOAD)
    prefix_repetition_output_len: int = knob(128, help="Tokens to generate.", group=WORKLOAD)
    sharegpt_output_len: int | None = knob(None, help="Default: the recorded answer's length.", group=WORKLOAD)
    seed: int = knob(0, help="Of prompts and arrivals.", group=WORKLOAD)
    ignore_eos: bool = knob(False, help="Ask for exactly as many tokens as told.", group=WORKLOAD)
    temperature: float = knob(0.0, help="Sent with every request.", group=WORKLOAD)
    extra_body: dict[str, Any] | None = knob(None, help="JSON object: further fields of requests.", group=WORKLOAD)

    request_rate: float = knob(math.inf, help="Requests that leave in a second; inf: all at once.", group=TRAFFIC)
    burstiness: float = knob(1.0, help="1: a Poisson process; more: steadier.", group=TRAFFIC)
    max_concurrency: int | None = knob(None, help="Most requests under way at once.", group=TRAFFIC)

    goodput: tuple[str, ...] = knob(
        (), help="ttft:MS tpot:MS e2el:MS, any of them: count requests that keep to all.", group=REPORT
    )
    percentile_metrics: str = knob("ttft,tpot,itl", help="Of ttft, tpot, itl and e2el.", group=REPORT)
    metric_percentiles: str = knob("99", help="Separated by commas.", group=REPORT)
    save_result: bool = knob(False, help="Write a JSON file.", group=REPORT)
    save_detailed: bool = knob(False, help="With every request's times and text.", group=REPORT)
    result_dir: str = knob(".", help="Where the file goes.", group=REPORT)
    result_filename: str | None = knob(None, help="Default: made of the label, rate, model and date.", group=REPORT)
    label: str | None = knob(None, help="A word of yours for the file.", group=REPORT)
    disable_tqdm: bool = knob(False, help="No progress bar.", group=REPORT)

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            counts = name.endswith(("_len", "_prompts", "_prefixes", "_concurrency", "_rate", "burstiness"))
            if counts and value is not None and value <= 0 and (name, value) != ("random_prefix_len", 0):
                raise _wrong(name, f"{value} is not above 0")
        if not 0 <= self.random_range_ratio <= 1:
            raise _wrong("random_range_ratio", f"{self.random_range_ratio} is not between 0 and 1")
        if self.dataset_name == "sharegpt" and self.dataset_path is None:
            raise _wrong("dataset_path", "sharegpt needs a file")
        _ = self.limits, self.metrics, self.percentiles

    @property
    def url(self) -> str:
        """The server's address, without a path."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (self.base_url or f"http://{host}:{self.port}").rstrip("/").removesuffix("/v1")

    @property
    def path(self) -> str:
        return self.endpoint or ENDPOINTS[self.backend]

    @property
    def metrics(self) -> list[str]:
        names = [name.strip() for name in self.percentile_metrics.split(",")]
        if unknown := set(names) - set(METRICS):
            raise _wrong("percentile_metrics", f"{', '.join(unknown)}; there are {', '.join(METRICS)}")
        return names

    @property
    def percentiles(self) -> list[float]:
        try:
            values = [float(text) for text in self.metric_percentiles.split(",")]
        except ValueError:
            values = [-1.0]
        if not all(0 <= value <= 100 for value in values):
            raise _wrong("metric_percentiles", f"{self.metric_percentiles!r} are no numbers from 0 to 100")
        return values

    @property
    def limits(self) -> dict[str, float]:
        """Of goodput: metric → milliseconds."""
        limits = {}
        for text in self.goodput:
            metric, _, milliseconds = text.partition(":")
            try:
                limits[metric] = float(milliseconds)
            except ValueError:
                limits[metric] = -1.0
            if metric not in ("ttft", "tpot", "e2el") or limits[metric] < 0:
                raise _wrong("goodput", f"{text!r} is not like ttft:100; there are ttft, tpot and e2el")
        return limits


def _wrong(name: str, why: str) -> typer.BadParameter:
    return typer.BadParameter(why, param_hint="--" + name.replace("_", "-"))


def with_serve_options(command: Callable[[ServeOptions], None]) -> Callable[..., None]:
    """The command with one option a field. More limits may follow the first after --goodput, as vLLM writes them."""
    fields, hints = dataclasses.fields(ServeOptions), get_type_hints(ServeOptions)

    def run(more_goodput: list[str] | None, **values: Any) -> None:
        if more_goodput and not values["goodput"]:
            raise typer.BadParameter(f"{more_goodput[0]!r} belongs to no option")
        values["goodput"] = (*(values["goodput"] or ()), *(more_goodput or ()))
        values |= {field.name: read(field, values[field.name]) for field in fields}
        command(ServeOptions(**{name: value for name, value in values.items() if value is not None}))

    more = Annotated[list[str] | None, typer.Argument(hidden=True, metavar="")]
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    options = [option(field, hints[field.name]) for field in fields]
    return with_parameters(run, [keyword("more_goodput", more), *options])
