"""Command-line options made from dataclasses: every field of EngineConfig, and the sampling fields of SamplingParams.

A command written as `def command(..., engine: dict, sampling: dict)` is decorated with `with_engine_options` and gets
in `engine` (and `sampling`) what the user set. Groups, helps and choices come from where the fields are declared.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, get_type_hints

import typer
from rich.console import Console

from jaxengine.config import EngineConfig

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
    defaults = defaults or {}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in _parameters(command) if p.name not in ("engine", "sampling")]
        taken = {p.name for p in own} | set(without)
        fields = [field for field in dataclasses.fields(EngineConfig) if field.name not in taken]
        options = [_engine_option(field, defaults.get(field.name)) for field in fields]
        if sampling:
            options += [_sampling_option(name, *SAMPLING[name]) for name in SAMPLING if name not in taken]

        @functools.wraps(command)
        def run(**values: Any) -> None:
            engine = {f.name: _parsed(f, value) for f in fields if (value := values.pop(f.name)) is not None}
            arguments: dict[str, Any] = {"engine": engine | {n: v for n, v in defaults.items() if n not in engine}}
            if sampling:
                given = {name: values.pop(name) for name in SAMPLING if name in values}
                arguments["sampling"] = {name: value for name, value in given.items() if value not in (None, [])}
            try:
                command(**values, **arguments)
            except ValueError as error:
                Console(stderr=True).print(f"[red]error:[/red] {error}", highlight=False, soft_wrap=True)
                raise typer.Exit(1) from error

        parameters = [*own, *options]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        del run.__wrapped__  # typer would read the undecorated signature
        return run

    return decorate


def _parameters(command: Callable[..., None]) -> list[inspect.Parameter]:
    hints = get_type_hints(command, include_extras=True)
    return [
        p.replace(annotation=hints[p.name], kind=inspect.Parameter.KEYWORD_ONLY)
        for p in inspect.signature(command).parameters.values()
    ]


def _engine_option(field: dataclasses.Field[Any], default: Any) -> inspect.Parameter:
    """Unset options are None, so that EngineConfig's own default holds; the help shows that default."""
    hint, choices = get_type_hints(EngineConfig)[field.name], field.metadata["choices"]
    flag = "--" + field.name.replace("_", "-")
    names = [flag, SHORT[field.name]] if field.name in SHORT else [flag]
    kind: Any = str  # what is read later: lengths with suffixes, JSON
    if choices and all(isinstance(choice, str) for choice in choices):
        kind = Literal[tuple(choices)]
    elif hint is bool:
        kind, names = bool, [f"{flag}/--no-{flag[2:]}"]
    else:
        for plain in (int, float):
            if hint in (plain, plain | None):
                kind = plain
    if default is None:
        default = field.default if field.default is not dataclasses.MISSING else None
    text = field.metadata["help"]
    if default is not None and "efault" not in text:
        shown = f"{'on' if default else 'off'}" if isinstance(default, bool) else default
        text = f"{text} [dim]\\[default: {shown}][/dim]"
    option = typer.Option(*names, help=text, rich_help_panel=field.metadata["group"], show_default=False)
    return _keyword(field.name, Annotated[kind | None, option] if kind is not None else kind)


def _sampling_option(name: str, kind: Any, help: str) -> inspect.Parameter:
    flag = "--" + name.replace("_", "-")
    option = typer.Option(flag, help=help, rich_help_panel="Generation", show_default=False)
    return _keyword(name, Annotated[kind | None, option])


def _keyword(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _parsed(field: dataclasses.Field[Any], value: Any) -> Any:
    if not str(field.type).startswith("dict"):
        return value
    try:
        parsed = json.loads(value)
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        raise typer.BadParameter(f"{value!r} is not a JSON object", param_hint="--" + field.name.replace("_", "-"))
    return parsed
