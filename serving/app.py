"""The HTTP application: every endpoint family, the documents about them, and the layers around them.

`commands/serve.py` runs it under uvicorn; tests may run it under anything that speaks ASGI.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI, Response
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Scope

from serving import console, errors, operations
from serving.anthropic import failures, messages
from serving.front import Front, own_path
from serving.logs import log_statistics
from serving.openai import chat, completions, models, tokens
from serving.openai.responses import endpoints as responses
from serving.openapi import describe
from serving.server import Server

FAMILIES = (completions, chat, responses, messages, models, tokens, operations, console)


def create_app(server: Server) -> ASGIApp:
    """Endpoints of one server. Whoever runs it closes the engine."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if server.config.disable_log_stats:
            yield
            return
        statistics = asyncio.create_task(log_statistics(server))
        yield
        statistics.cancel()
        with suppress(asyncio.CancelledError):
            await statistics

    docs = not server.config.disable_fastapi_docs
    app = FastAPI(
        title="jaxengine",
        version=server.version,
        description="Large language models with JAX, behind OpenAI's and Anthropic's protocols.",
        lifespan=lifespan,
        openapi_url="/openapi.json" if docs else None,
        redoc_url=None,
    )
    errors.install(app, failed)
    for family in FAMILIES:
        app.include_router(family.routes(server))
    describe(app, [kind for family in FAMILIES for kind in family.TYPES])
    app.state.front = Front(app, server.config, failed, server.traces)
    if not server.config.allowed_origins:
        return app.state.front
    return CORSMiddleware(  # outermost: a browser asks for permission without a key
        app.state.front,
        allow_origins=server.config.allowed_origins,
        allow_credentials=server.config.allow_credentials,
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=["x-request-id", "retry-after"],
    )


def failed(error: Exception, scope: Scope) -> Response:
    """What a failure is answered with, in the protocol of its path."""
    path = own_path(scope)
    if path == messages.PATH or path.startswith(f"{messages.PATH}/"):
        return failures.failure_response(error, scope)
    return errors.error_response(error, scope)
