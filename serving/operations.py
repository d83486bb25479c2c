"""The endpoints for whoever runs the server: health, readiness, load, version and metrics."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response
from msgspec import Struct

from serving.errors import Refusal
from serving.openai.answers import json_response
from serving.openapi import operation
from serving.prometheus import CONTENT_TYPE, exposition
from serving.server import Server

PATIENCE = 5.0  # seconds for the engine to say that it is well


class Version(Struct):
    version: str


class Load(Struct):
    """Requests that are being generated, and the sequences of these that have no place yet."""

    server_load: int
    waiting: int


class Reset(Struct):
    success: bool


TYPES = (Version, Load, Reset)


def routes(server: Server) -> APIRouter:
    router = APIRouter(tags=["Operations"])

    @router.get("/health", **operation(None, None, problems=(503,)))
    @router.api_route("/ping", methods=["GET", "POST"], include_in_schema=False)
    async def health() -> Response:
        """200 while the engine can run a step, 503 otherwise."""
        await check_engine(server)
        return Response()

    @router.get("/ready", **operation(None, None, problems=(503,)))
    async def ready() -> Response:
        """200 while new requests are welcome: the engine is well, and the server is not about to end."""
        if server.admission.draining:
            raise Refusal(503, "the server is shutting down", retry_after=1)
        await check_engine(server)
        return Response()

    @router.get("/live", **operation(None, None, problems=(503,)))
    async def live() -> Response:
        """200 as long as this process answers and its engine has not failed."""
        if server.engine.errored:
            raise Refusal(503, "the engine has failed")
        return Response()

    @router.get("/load", **operation(None, Load))
    async def load() -> Response:
        return json_response(Load(server.admission.requests, server.admission.waiting))

    @router.get("/version", **operation(None, Version))
    async def version() -> Response:
        return json_response(Version(server.version))

    @router.get("/metrics", response_class=Response, response_model=None)
    async def metrics(request: Request) -> Response:
        """Prometheus' text format."""
        return Response(exposition(server, request.app.state.front), media_type=CONTENT_TYPE)

    if server.config.server_dev_mode:

        @router.post("/reset_prefix_cache", **operation(None, Reset, problems=(400, 503)))
        async def reset_prefix_cache(reset_running_requests: bool = False) -> Response:
            """Forget every cached page; `success` is false while requests hold some."""
            return json_response(Reset(await server.engine.reset_prefix_cache(reset_running_requests)))

    return router


async def check_engine(server: Server) -> None:
    """Raises EngineDeadError, or Refusal (503) for an engine that does not answer."""
    try:
        await asyncio.wait_for(server.engine.check_health(), PATIENCE)
    except TimeoutError:
        raise Refusal(503, f"the engine has not answered for {PATIENCE:g} s", retry_after=10) from None
