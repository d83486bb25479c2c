"""One command-line option from one declared field of a configuration dataclass.

`serve` builds its options from ServerConfig with it. Unset options are None, so that the dataclass's own default
holds; the help shows that default.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
from collections.abc import Callable
from types import UnionType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from serving.config import ServerConfig


def with_server_options(command: Callable[..., None]) -> Callable[..., None]:
    """Replace a command's `server` parameter by ServerConfig's options; it gets what the user set."""
    fields = dataclasses.fields(ServerConfig)
    hints = get_type_hints(ServerConfig)
    own = get_type_hints(command, include_extras=True)

    @functools.wraps(command)
    def run(**values: Any) -> None:
        given = {field.name: read(field, values.pop(field.name)) for field in fields}
        command(**values, server={name: value for name, value in given.items() if value not in (None, [])})

    parameters = [
        parameter.replace(annotation=own[parameter.name])
        for parameter in inspect.signature(command).parameters.values()
        if parameter.name != "server"
    ] + [option(field, hints[field.name]) for field in fields]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del run.__wrapped__  # its signature would be read instead
    return run


def option(field: dataclasses.Field[Any], hint: Any) -> inspect.Parameter:
    """The field's option as typer wants it: a keyword parameter."""
    flag = "--" + field.name.replace("_", "-")
    names, kind = [flag], _kind(field, hint)
    if kind is bool:
        names = [f"{flag}/--no-{flag[2:]}"]
        if field.name.startswith("enable_"):
            names.append(f" /--disable-{flag[9:]}")
    text, default = field.metadata["help"], field.default
    if default not in (None, (), dataclasses.MISSING, "") and "efault" not in text:
        shown = ("on" if default else "off") if isinstance(default, bool) else default
        text = f"{text} [dim]\\[default: {shown}][/dim]"
    declared = typer.Option(*names, help=text, rich_help_panel=field.metadata["group"], show_default=False)
    annotation: Any = Annotated[kind | None, declared]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


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
