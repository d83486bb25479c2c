"""`jaxengine complete`: prompts continued by a server, as they stream in."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console

from serving.commands import remote


def complete(
    url: Annotated[str, typer.Option(help="The server.")] = remote.URL,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", "-p", "--quick", "-q", help="Several: one by one; none: ask for them."),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "--model-name", help="Default: the server's first.")] = None,
    api_key: Annotated[str | None, typer.Option(help="For the server.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens to generate.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, help="0 takes the most likely token.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Sample from the smallest set with this probability.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed, the same text.")] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="Text that ends the output; may be given several times.")
    ] = None,
) -> None:
    """Continue texts with a model behind a server.

    jaxengine complete --url http://localhost:8000/v1 --prompt "Once upon a time" --max-tokens 64
    """
    fields = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "seed": seed, "stop": stop or None}
    sampling = {name: value for name, value in fields.items() if value is not None}
    with remote.failures_in_one_line(), remote.Remote(url, api_key, model) as server:
        for text in prompt or ():
            show(server, text, sampling)
        if prompt:
            return
        console = Console(highlight=False)
        console.print(f"[bold]{server.model}[/bold]  [dim]Ctrl-C stops a text, Ctrl-D ends.[/dim]")
        while True:
            try:
                text = console.input("[bold green]> [/bold green]")
            except (EOFError, KeyboardInterrupt):
                console.print()
                return
            try:
                show(server, text, sampling)
            except remote.ServerError as error:  # of this prompt alone
                console.print(f"[red]{error}[/red]")


def show(server: remote.Remote, prompt: str, sampling: dict[str, Any]) -> None:
    pieces = server.complete(prompt, **sampling)
    try:
        for piece in pieces:
            typer.echo(piece, nl=False)
    except KeyboardInterrupt:
        pieces.close()
    typer.echo()
