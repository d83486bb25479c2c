"""The packaged model behind HTTP, in this process: real sockets and clients, and an engine that tests can look into.

Fixtures: `demo` is one engine for all tests of a module, `serve` puts it (or another) behind a server with any knobs.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest

from jaxengine import AsyncEngine, EngineConfig
from jaxengine.build import build_engine
from serving.app import create_app
from serving.config import ServerConfig
from serving.engine_protocol import ServedEngine
from serving.http_server import HttpServer, event_loop, listen
from serving.server import Server

ENGINE: dict[str, Any] = {
    "max_model_len": 256,
    "max_num_seqs": 8,
    "max_num_batched_tokens": 64,
    "dtype": "float32",
    "enforce_eager": True,  # compiles only what these tests run
    "compilation_cache_dir": "off",
    "use_tqdm_on_load": False,
}


class Served:
    """A server in a thread. `url` ends without a slash."""

    def __init__(self, engine: ServedEngine, traces: Any = None, counts: Any = None, **knobs: Any) -> None:
        config = ServerConfig(**{"host": "127.0.0.1", "port": 0, "disable_log_stats": True} | knobs)
        self.engine, self.socket = engine, listen(config)
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.server = Server(engine, config, traces=traces, counts=counts)
        self.http_server = HttpServer(create_app(self.server), self.server)
        self.loop: asyncio.AbstractEventLoop | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        self.http = httpx.Client(base_url=self.url, timeout=60)
        self.openai = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)
        wait_until(lambda: self.http_server.started)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=event_loop) as runner:
            self.loop = runner.get_loop()
            runner.run(self.http_server.serve_on(self.socket))

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.http.post(path, json=body)

    def close(self) -> None:
        self.http.close()
        self.openai.close()
        self.http_server.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive()


def wait_until(holds: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def demo() -> Iterator[AsyncEngine]:
    engine = AsyncEngine(build_engine(EngineConfig(model="demo", **ENGINE), progress=False))
    yield engine
    engine.shutdown()


@pytest.fixture(scope="module")
def serve(request: pytest.FixtureRequest) -> Iterator[Callable[..., Served]]:
    """serve(engine=…, **knobs): another server, closed with the module."""
    made: list[Served] = []

    def start(engine: ServedEngine | None = None, **knobs: Any) -> Served:
        made.append(Served(engine or request.getfixturevalue("demo"), **knobs))
        return made[-1]

    yield start
    for served in made:
        served.close()


@pytest.fixture(scope="module")
def served(serve: Callable[..., Served]) -> Served:
    return serve()
