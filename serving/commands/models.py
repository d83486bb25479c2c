"""`jaxengine models`: the architectures with a native decoder, checkpoints of each, and notes."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table


def models(
    text: Annotated[str, typer.Argument(help="Only those with this in a name, in any case.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON array.")] = False,
) -> None:
    """List the architectures that are served natively."""
    from jaxengine import native_models

    found = [
        model
        for model in native_models()
        if any(text.lower() in name.lower() for name in (model.architecture, *model.examples))
    ]
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(model) for model in found], indent=2))
        return
    if not found:
        typer.echo(f"No native architecture or checkpoint has {text!r} in its name.", err=True)
        raise typer.Exit(1)
    table = Table(box=None, title_justify="left", header_style="bold", padding=(0, 2, 0, 0))
    for column in ("architecture", "checkpoints", "tested, and to know"):
        table.add_column(column, overflow="fold")
    for model in found:
        table.add_row(model.architecture, "\n".join(model.examples), model.note)
    Console(highlight=False).print(table)
