"""The `jaxengine` command. Each subcommand is one file in `commands/`; jax is imported only when one runs."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from serving.commands import chat, complete, env, generate, models, run_batch, serve
from serving.commands.bench import kernels, latency, startup, throughput
from serving.commands.bench import serve as bench_serve

SETTINGS = {"help_option_names": ["-h", "--help"]}


class Dashed(TyperGroup):
    """Understands `--max_num_seqs` like `--max-num-seqs`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        return super().parse_args(ctx, [*map(dashed, args[:end]), *args[end:]])


def dashed(argument: str) -> str:
    """Options with dashes; anything that is not the name of an option stays as it is."""
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value if re.fullmatch(r"--[a-z0-9_-]+", name) else argument


app = typer.Typer(
    cls=Dashed,
    no_args_is_help=True,
    context_settings=SETTINGS,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Large language models with JAX: generate, chat, serve, measure.",
)
bench = typer.Typer(no_args_is_help=True, context_settings=SETTINGS, help="Measure, with vLLM's workloads and names.")

app.command()(generate.generate)
app.command()(chat.chat)
app.command()(complete.complete)
app.command()(serve.serve)
app.command()(run_batch.run_batch)
app.command()(models.models)
app.command()(env.env)
app.add_typer(bench, name="bench")
bench.command()(bench_serve.serve)
bench.command()(latency.latency)
bench.command()(throughput.throughput)
bench.command()(startup.startup)
bench.command()(kernels.kernels)


def _show_version(asked: bool) -> None:
    if asked:
        try:
            typer.echo(f"jaxengine {version('jaxengine')}")
        except PackageNotFoundError:  # run from a source tree
            typer.echo("jaxengine (not installed)")
        raise typer.Exit


@app.callback()
def root(
    show_version: Annotated[
        bool, typer.Option("--version", "-v", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    app(prog_name="jaxengine")


if __name__ == "__main__":
    main()
