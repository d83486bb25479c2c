"""`jaxengine serve`: the model behind HTTP, with OpenAI's protocol."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jaxengine.request import InvalidRequest
from serving.config import ServerConfig, split_arguments
from serving.flags import with_server_options
from serving.options import with_engine_options

if TYPE_CHECKING:
    from jaxengine.config import EngineConfig


@with_engine_options()
@with_server_options
def serve(
    engine: dict[str, Any],
    server: dict[str, Any],
    model: Annotated[str | None, typer.Argument(help="A directory, a hub name, or `demo`.")] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="YAML file of these options, without their dashes; the command line wins."),
    ] = None,
) -> None:
    """Serve a model over HTTP, for OpenAI's clients.

    jaxengine serve demo --port 8000
    """
    from jaxengine.arguments import engine_config

    file = read_config_file(config) if config is not None else {}
    model = model or file.pop("model", None)
    if model is None:
        raise typer.BadParameter("name a model, here or in the --config file", param_hint="MODEL")
    of_server, of_engine = split_arguments(file)
    run(ServerConfig.from_arguments(**of_server | server), engine_config(model=model, **of_engine | engine))


def run(config: ServerConfig, engine_config: EngineConfig) -> None:
    """Serve until a signal ends it: SIGTERM and SIGINT let running requests finish first.

    The engine runs in a process of its own, and is replaced there if it dies; this process answers HTTP, or starts
    `api_server_count` others that do.
    """
    from jaxengine.engine_errors import EngineDeadError
    from jaxengine.supervisor import EngineSupervisor
    from serving.http_server import check_certificates, listen
    from serving.logs import set_up
    from serving.worker import Lost, work
    from serving.workers import Workers

    check_certificates(config)  # what cannot be is known before a model is read
    check_tracing(config)
    listening = listen(config)
    set_up(config)
    signal.signal(signal.SIGTERM, _leave)  # while the engine starts; afterwards the worker's own handlers
    supervisor = EngineSupervisor(engine_config, hang_seconds=config.engine_timeout)

    def watch(loop: asyncio.AbstractEventLoop, lost: Lost) -> None:
        supervisor.on_lost = lambda error: loop.call_soon_threadsafe(lost, error)

    with listening:
        try:
            supervisor.start()
            if config.api_server_count == 1:
                well = work(listening, supervisor.address, config, engine_config, watch)
            else:
                well = Workers(listening, supervisor, config, engine_config).run()
        except EngineDeadError as error:
            raise ValueError(str(error)) from error  # one line for the user; the engine has said the rest
        finally:
            supervisor.stop()
    if not well:
        raise ValueError("the engine was lost and could not be started again")


def check_tracing(config: ServerConfig) -> None:
    """Raises InvalidRequest where spans could not be sent."""
    if config.otlp_traces_endpoint is None:
        return
    try:
        from serving.tracing import exporter

        exporter(config.otlp_traces_endpoint)
    except ImportError as error:
        hint = "`pip install 'jaxengine[otel]'`"
        raise InvalidRequest("otlp_traces_endpoint", f"OpenTelemetry is missing: {error}", hint) from error


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def read_config_file(path: Path) -> dict[str, Any]:
    """Names of options, with dashes or underscores, and their values. Raises InvalidRequest."""
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise InvalidRequest("config", f"{path} cannot be read: {error}", "give a YAML file") from error
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise InvalidRequest("config", f"{path} is no list of `name: value`", "write one option a line")
    return {name.replace("-", "_"): value for name, value in values.items()}
