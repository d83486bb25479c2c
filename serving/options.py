"""Command-line options made from dataclasses: every field of EngineConfig, and the sampling fields of SamplingParams.

A command written as `def command(..., engine: dict, sampling: dict)` is decorated with `with_engine_options` and gets
in `engine` (and `sampling`) what the user set. Groups, helps and choices come from where the fields are declared.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Annotated, Any, get_type_hints

import typer
from rich.console import Console

from jaxengine.config import EngineConfig
from serving.flags import keyword, option, parameters_of, read, with_parameters

SHORT = {"tensor_parallel_size": "-tp", "quantization": "-q"}

# Of SamplingParams: name → (type, help). Seeds come from the engine's --seed.
SAMPLING: dict[str, tuple[Any, str]] = {
    "max_tokens": (int, "Most tokens to generate."),
    "temperature": (float, "0 takes the most likely token."),
    "top_p": (float, "Sample from the smallest set of tokens with this much probability."),
    "top_k": (int, "Sample from the k most likely tokens; 0: from all."),
    "min_p": (float, "Sample from tokens at least this likely, relative to the most likely one."),
    "repetition_penalty": (float, "Above 1: tokens that appeared become less likely."),
    "presence_penalty": (float, "Above 0: generated tokens become less likely."),
    "frequency_penalty": (float, "Above 0: generated tokens become less likely each time."),
    "stop": (list[str], "Text that ends the output; may be given several times."),
    "ignore_eos": (bool, "Go on past the end-of-sequence token."),
}


def with_engine_options(
    *, sampling: bool = False, without: Iterable[str] = ("model",), defaults: dict[str, Any] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace a command's `engine` (and `sampling`) parameter by options. `defaults` differ from EngineConfig's own.

    A ValueError of the command becomes one line on stderr and exit status 1.
    """
    defaults, hints = defaults or {}, get_type_hints(EngineConfig)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in parameters_of(command) if p.name not in ("engine", "sampling")]
        taken = {p.name for p in own} | set(without)
        fields = [field for field in dataclasses.fields(EngineConfig) if field.name not in taken]
        options = [
            option(field, hints[field.name], short=SHORT.get(field.name), default=defaults.get(field.name))
            for field in fields
        ]
        if sampling:
            options += [_sampling_option(name, *SAMPLING[name]) for name in SAMPLING if name not in taken]

        @functools.wraps(command)
        def run(**values: Any) -> None:
            engine = {f.name: read(f, value) for f in fields if (value := values.pop(f.name)) is not None}
            arguments: dict[str, Any] = {"engine": engine | {n: v for n, v in defaults.items() if n not in engine}}
            if sampling:
                given = {name: values.pop(name) for name in SAMPLING if name in values}
                arguments["sampling"] = {name: value for name, value in given.items() if value not in (None, [])}
            try:
                command(**values, **arguments)
            except ValueError as error:
                Console(stderr=True).print(f"[red]error:[/red] {error}", highlight=False, soft_wrap=True)
                raise typer.Exit(1) from error

        del run.__wrapped__  # typer would read the undecorated signature
        return with_parameters(run, [*own, *options])

    return decorate


def _sampling_option(name: str, kind: Any, help: str) -> inspect.Parameter:
    flag = "--" + name.replace("_", "-")
    declared = typer.Option(flag, help=help, rich_help_panel="Generation", show_default=False)
    return keyword(name, Annotated[kind | None, declared])
