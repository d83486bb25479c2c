"""GET /v1/models: what is served here."""

from __future__ import annotations

from fastapi import APIRouter, Response

from serving.openai import wire
from serving.openai.answers import json_response
from serving.openapi import operation
from serving.server import Server

TYPES = (wire.ModelList, wire.ModelCard)


def routes(server: Server) -> APIRouter:
    router = APIRouter(tags=["OpenAI"])

    def card(name: str) -> wire.ModelCard:
        return wire.ModelCard(
            id=name, created=server.started, root=server.model, max_model_len=server.engine.max_model_len
        )

    @router.get("/v1/models", **operation(None, wire.ModelList))
    async def models() -> Response:
        """The names that requests may ask for; all mean the same model."""
        return json_response(wire.ModelList(data=[card(name) for name in server.names]))

    @router.get("/v1/models/{name:path}", **operation(None, wire.ModelCard, problems=(404,)))
    async def model(name: str) -> Response:
        """One of them."""
        server.check_model(name)
        return json_response(card(name))

    return router
