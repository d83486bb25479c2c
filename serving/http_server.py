"""uvicorn with our knobs, and an end that loses nothing: running requests finish first.

`commands/serve.py` opens the socket, builds the engine and the app, and runs them here.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import ssl
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from jaxengine.request import InvalidRequest
from serving.config import ServerConfig
from serving.server import Server

logger = logging.getLogger(__name__)

BACKLOG = 2048  # connections that the system holds for us
AFTER_ABORT = 5  # seconds that aborted requests get to send their last words


def listen(config: ServerConfig) -> socket.socket:
    """The socket that the config asks for. Raises InvalidRequest where there can be none."""
    if config.uds is not None:
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        place: str | tuple[str, int] = config.uds
        if Path(config.uds).is_socket():
            Path(config.uds).unlink()  # of a server that was killed
    else:
        opened = socket.socket(socket.AF_INET6 if ":" in config.host else socket.AF_INET, socket.SOCK_STREAM)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place = config.host, config.port
    try:
        opened.bind(place)
    except OSError as error:
        opened.close()
        raise InvalidRequest("host", f"cannot listen on {place}: {error}", "use another host, port or uds") from error
    return opened


def check_certificates(config: ServerConfig) -> None:
    """Raises InvalidRequest for files that HTTPS cannot use."""
    if config.ssl_certfile is None or config.ssl_keyfile is None:
        return
    field = "ssl_certfile"
    try:
        for field in ("ssl_certfile", "ssl_keyfile", "ssl_ca_certs"):
            if (path := getattr(config, field)) is not None:
                Path(path).read_bytes()
        field, context = "ssl_keyfile", ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(config.ssl_certfile, config.ssl_keyfile, password="")  # or openssl asks the terminal
        if config.ssl_ca_certs is not None:
            field = "ssl_ca_certs"
            context.load_verify_locations(config.ssl_ca_certs)
    except OSError as error:  # SSLError is one
        problem = f"{getattr(config, field)} cannot be used: {error}"
        raise InvalidRequest(field, problem, "give PEM files, and the certificate's own key") from error


def event_loop() -> asyncio.AbstractEventLoop:
    """The fastest that is installed."""
    make = uvicorn.Config("", loop="auto", log_config=None).get_loop_factory() or asyncio.new_event_loop
    return make()


def address(config: ServerConfig, listening: socket.socket) -> str:
    if config.uds is not None:
        return f"unix:{config.uds}"
    host, port = listening.getsockname()[:2]
    return f"http{'s' if config.ssl_certfile else ''}://{f'[{host}]' if ':' in host else host}:{port}"


class HttpServer(uvicorn.Server):
    """Told to end, it accepts nothing new and waits for what runs; after `shutdown_timeout` it aborts that."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self.server, config = server, server.config
        settings = uvicorn.Config(
            app,
            root_path=config.root_path,
            backlog=BACKLOG,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=config.timeout_keep_alive,
            timeout_graceful_shutdown=math.ceil(config.shutdown_timeout) + AFTER_ABORT,
            ssl_keyfile=config.ssl_keyfile,
            ssl_certfile=config.ssl_certfile,
            ssl_ca_certs=config.ssl_ca_certs,
            ssl_cert_reqs=config.ssl_cert_reqs,
        )
        super().__init__(settings)

    async def serve_on(self, listening: socket.socket) -> None:
        """Until a signal comes."""
        where = address(self.server.config, listening)
        logger.info("%s is served at %s", ", ".join(self.server.names), where)
        await self.serve(sockets=[listening])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit  # the second time
        self.should_exit = self.server.admission.draining = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        logger.info("shutting down; %d requests are running", self.server.admission.requests)
        timeout = self.server.config.shutdown_timeout
        deadline = asyncio.get_running_loop().call_later(timeout, self.server.abort_running)
        self.server_state.tasks |= self.server.tasks
        for task in self.server.tasks:
            task.add_done_callback(self.server_state.tasks.discard)
        await super().shutdown(sockets)
        deadline.cancel()
