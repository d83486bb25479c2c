"""POST /v1/messages and /v1/messages/count_tokens: a conversation in, a message of blocks out, or its length."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response

from serving.anthropic import wire
from serving.anthropic.answers import MessageAnswer
from serving.anthropic.failures import MessageStream
from serving.anthropic.request import CountTokensRequest, MessagesRequest, chat_request, prompt_request
from serving.bodies import Body, read
from serving.generation import outputs
from serving.openai.answers import json_response, results
from serving.openai.chat_request import chat_job, render
from serving.openai.prompts import encode
from serving.openapi import PLACE, operation
from serving.reading import Tools
from serving.server import Server
from serving.stream import while_connected

PATH = "/v1/messages"
STREAM = {
    "schema": {"description": "Events message_start, ping, content_block_start, content_block_delta, "
               "content_block_stop, message_delta, message_stop and error."}
}  # fmt: skip
TYPES = (MessagesRequest, CountTokensRequest, wire.AnswerMessage, wire.TokenCount, wire.MessageError)


def routes(server: Server) -> APIRouter:
    router = APIRouter(tags=["Anthropic"])

    @router.post(PATH, **described(MessagesRequest, wire.AnswerMessage, streams=True))
    async def messages(request: Request) -> Response:
        """Answer a conversation."""
        server.admission.check()
        body = await read(request, MessagesRequest, server.config.max_body_size)
        job, reading = await chat_job(server, server.request_id(request, None, "msg"), chat_request(server, body))
        answer = MessageAnswer(server, job, reading)
        if body.stream:
            return MessageStream(answer.stream(outputs(server, job)), request.scope.get("request_id"))
        async with while_connected(request.receive):
            (result,) = await results(server, job)
        return json_response(answer.whole(result))

    @router.post(f"{PATH}/count_tokens", **described(CountTokensRequest, wire.TokenCount))
    async def count_tokens(request: Request) -> Response:
        """How many tokens the prompt of a conversation has."""
        body = await read(request, CountTokensRequest, server.config.max_body_size)
        server.check_model(body.model)
        chat = prompt_request(server, body)
        tools = Tools.of(server.formats, chat.tools or (), chat.tool_choice)
        ids = await encode(server, render(server, chat, tools), special=False)
        return json_response(wire.TokenCount(len(ids)))

    return router


def described(body: type[Body], answer: type[msgspec.Struct], *, streams: bool = False) -> dict[str, Any]:
    """Keyword arguments of a route: `operation`, with the failures and events of this protocol."""
    route = operation(body, answer)
    for status, response in route["openapi_extra"]["responses"].items():
        if status != "200":
            reference = {"$ref": PLACE.format(name=wire.MessageError.__name__)}
            response["content"]["application/json"]["schema"] = reference
        elif streams:
            response["content"]["text/event-stream"] = STREAM
    return route
