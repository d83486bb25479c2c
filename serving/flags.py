"""One command-line option from one declared field of a configuration dataclass.

Commands build the options of EngineConfig (`options.py`), of ServerConfig and of `bench serve` with it. Unset options
are None, so that the dataclass's own default holds; the help shows that default.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
from collections.abc import Callable, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from serving.config import ServerConfig


def with_server_options(command: Callable[..., None]) -> Callable[..., None]:
    """Replace a command's `server` parameter by ServerConfig's options; it gets what the user set."""
    fields, hints = dataclasses.fields(ServerConfig), get_type_hints(ServerConfig)

    @functools.wraps(command)
    def run(**values: Any) -> None:
        given = {field.name: read(field, values.pop(field.name)) for field in fields}
        command(**values, server={name: value for name, value in given.items() if value not in (None, [])})

    own = [parameter for parameter in parameters_of(command) if parameter.name != "server"]
    del run.__wrapped__  # its signature would be read instead
    return with_parameters(run, [*own, *(option(field, hints[field.name], off="disable") for field in fields)])


def parameters_of(command: Callable[..., None]) -> list[inspect.Parameter]:
    """With their annotations resolved, and keywords all."""
    hints = get_type_hints(command, include_extras=True)
    return [
        parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in inspect.signature(command).parameters.values()
    ]


def with_parameters(run: Callable[..., None], parameters: Sequence[inspect.Parameter]) -> Callable[..., None]:
    """The function as one that typer sees with these parameters."""
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def option(
    field: dataclasses.Field[Any],
    hint: Any,
    *,
    short: str | None = None,  # another name
    default: Any = None,  # shown in place of the field's own
    off: str | None = None,  # of `enable_x`: what `off-x` begins with, beside `no-enable-x`
) -> inspect.Parameter:
    """The field's option as typer wants it: a keyword parameter."""
    flag = "--" + field.name.replace("_", "-")
    names, kind = [flag, *([short] if short else [])], _kind(field, hint)
    if kind is bool:
        names = [f"{flag}/--no-{flag[2:]}"]
        if off and field.name.startswith("enable_"):
            names.append(f" /--{off}-{flag[9:]}")
    text, default = field.metadata["help"], field.default if default is None else default
    if default not in (None, (), dataclasses.MISSING, "") and "efault" not in text:
        shown = ("on" if default else "off") if isinstance(default, bool) else default
        text = f"{text} [dim]\\[default: {shown}][/dim]"
    declared = typer.Option(*names, help=text, rich_help_panel=field.metadata["group"], show_default=False)
    return keyword(field.name, Annotated[kind | None, declared])


def keyword(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _kind(field: dataclasses.Field[Any], hint: Any) -> Any:
    """The type that typer reads; what it cannot read (JSON) comes as text."""
    choices = field.metadata["choices"]
    if choices and all(isinstance(choice, str) for choice in choices):
        return Literal[tuple(choices)]
    kinds = [part for part in (get_args(hint) if isinstance(hint, UnionType) else (hint,)) if part is not type(None)]
    if len(kinds) == 1 and kinds[0] in (bool, int, float):
        return kinds[0]
    return list[str] if get_origin(kinds[0]) is tuple else str


def read(field: dataclasses.Field[Any], value: Any) -> Any:
    """The option's value for the dataclass: JSON objects are still text."""
    if value is None or not str(field.type).startswith("dict"):
        return value
    try:
        parsed = json.loads(value)
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        raise typer.BadParameter(f"{value!r} is not a JSON object", param_hint="--" + field.name.replace("_", "-"))
    return parsed
