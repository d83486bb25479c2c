"""A process that answers HTTP for an engine in another one. `commands/serve.py` runs one, or several on one socket.

As a process of its own (`python -m serving.worker`) it gets its orders in the first line of stdin. When stdin ends the
engine is lost, or the server: then nothing is left to be done here.
"""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from jaxengine import EngineClient, EngineConfig
from jaxengine.engine_tokenizer import engine_tokenizer
from jaxengine.garbage import settle
from serving.app import create_app
from serving.config import ServerConfig
from serving.http_server import HttpServer, event_loop
from serving.logs import set_up
from serving.server import Server, own_version
from serving.shared_counts import SharedCounts

if TYPE_CHECKING:
    from serving.tracing import Traces

Lost = Callable[[Exception], None]


class Orders(msgspec.Struct):
    """What a worker process must know."""

    address: str  # of the engine
    listening: int  # file descriptor of the socket
    counts: tuple[int, int]  # file descriptor and number, of SharedCounts
    place: int  # among the processes
    server: dict[str, Any]
    engine: dict[str, Any]


def work(
    listening: socket.socket,
    address: str,
    config: ServerConfig,
    engine_config: EngineConfig,
    when_ready: Callable[[asyncio.AbstractEventLoop, Lost], None],
    counts: SharedCounts | None = None,
) -> bool:
    """Serve until a signal comes; False if the engine was lost before: `when_ready` gets what to call then."""

    async def inside() -> bool:
        engine = await EngineClient.connect(address, engine_tokenizer(engine_config))
        by_priority = engine_config.scheduling_policy == "priority"
        traces = traces_of(config, engine_config.model)
        server = Server(engine, config, model=engine_config.model, priorities=by_priority, traces=traces, counts=counts)
        http = HttpServer(create_app(server), server)

        def lost(error: Exception) -> None:
            engine.fail(error)
            http.should_exit = True

        when_ready(asyncio.get_running_loop(), lost)
        settle()
        try:
            await http.serve_on(listening)
            return not engine.errored
        finally:
            await engine.close()
            if traces is not None:
                await asyncio.to_thread(traces.close)

    with asyncio.Runner(loop_factory=event_loop) as runner:
        return runner.run(inside())


def traces_of(config: ServerConfig, model: str) -> Traces | None:
    if config.otlp_traces_endpoint is None:
        return None
    from serving.tracing import open_traces

    name = config.served_model_name[0] if config.served_model_name else model
    return open_traces(config.otlp_traces_endpoint, model=name, version=own_version())


def main() -> None:
    orders = msgspec.json.decode(sys.stdin.buffer.readline(), type=Orders)
    config = msgspec.convert(orders.server, ServerConfig)
    set_up(config)

    def watch_stdin(loop: asyncio.AbstractEventLoop, lost: Lost) -> None:
        def ended() -> None:
            loop.remove_reader(sys.stdin)
            lost(RuntimeError("it could not be started again"))

        loop.add_reader(sys.stdin, ended)

    with socket.socket(fileno=orders.listening) as listening:
        engine = EngineConfig.from_arguments(**orders.engine)
        counts = SharedCounts(*orders.counts, orders.place)
        sys.exit(0 if work(listening, orders.address, config, engine, watch_stdin, counts) else 1)


def orders_line(
    listening: socket.socket,
    address: str,
    config: ServerConfig,
    engine: EngineConfig,
    counts: SharedCounts,
    place: int,
) -> bytes:
    """What `main` reads. The first process speaks for all of them in the log: the engine's numbers are one."""
    config = dataclasses.replace(config, disable_log_stats=config.disable_log_stats or place > 0)
    about = dataclasses.asdict(config), dataclasses.asdict(engine)
    orders = Orders(address, listening.fileno(), (counts.file, len(counts)), place, *about)
    return msgspec.json.encode(orders) + b"\n"


if __name__ == "__main__":
    main()
