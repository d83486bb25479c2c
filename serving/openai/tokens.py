"""POST /tokenize and /detokenize: what the model's tokenizer and chat template make of a text or a conversation."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from msgspec import Struct

from jaxengine.request import InvalidRequest
from serving.bodies import Body, read
from serving.openai.answers import json_response
from serving.openai.chat_request import ChatRequest, render
from serving.openai.prompts import encode
from serving.openai.sampling import Flag, doc
from serving.openapi import operation
from serving.reading import Tools
from serving.server import Server


class TokenizeRequest(Body, kw_only=True):
    """A text or a conversation."""

    model: str | None = None
    prompt: Annotated[str | None, doc("A text; or else send messages.")] = None
    messages: Annotated[list[dict[str, Any]] | None, doc("A conversation; or else send a prompt.")] = None
    tools: list[dict[str, Any]] | None = None
    add_special_tokens: Annotated[Flag, doc("By default for texts only.")] = None
    add_generation_prompt: Flag = None
    continue_final_message: Flag = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_strs: Flag = None


class Tokens(Struct, kw_only=True):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str | None] | None = None


class DetokenizeRequest(Body, kw_only=True):
    """Token ids."""

    model: str | None = None
    tokens: list[int]


class Text(Struct, kw_only=True):
    prompt: str


TYPES = (TokenizeRequest, Tokens, DetokenizeRequest, Text)


def routes(server: Server) -> APIRouter:
    router = APIRouter(tags=["Tokens"])

    @router.post("/tokenize", **operation(TokenizeRequest, Tokens))
    async def tokenize(request: Request) -> Response:
        """Token ids of a text or of a rendered conversation."""
        body = await read(request, TokenizeRequest, server.config.max_body_size)
        server.check_model(body.model)
        if (body.prompt is None) == (body.messages is None):
            raise InvalidRequest("prompt", "either it or messages", "send one of them")
        text = body.prompt if body.prompt is not None else rendered(server, body)
        special = body.prompt is not None if body.add_special_tokens is None else body.add_special_tokens
        ids = await encode(server, text, special)
        names = [server.tokenizer.token(id) for id in ids] if body.return_token_strs else None
        return json_response(
            Tokens(count=len(ids), max_model_len=server.engine.max_model_len, tokens=ids, token_strs=names)
        )

    @router.post("/detokenize", **operation(DetokenizeRequest, Text))
    async def detokenize(request: Request) -> Response:
        """The text of token ids."""
        body = await read(request, DetokenizeRequest, server.config.max_body_size)
        server.check_model(body.model)
        if any(not 0 <= id < 2**32 for id in body.tokens):
            raise InvalidRequest("tokens", "one of them is not a token id", "use integers from 0")
        return json_response(Text(prompt=server.tokenizer.decode(body.tokens)))

    return router


def rendered(server: Server, body: TokenizeRequest) -> str:
    chat = ChatRequest(
        messages=body.messages or [],
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=body.continue_final_message,
        chat_template=body.chat_template,
        chat_template_kwargs=body.chat_template_kwargs,
    )
    return render(server, chat, Tools.none(body.tools or ()))
