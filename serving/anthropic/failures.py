"""Failures as Anthropic's clients see them: `{"type": "error", "error": {"type", "message"}}`.

`FailureRoute` answers with them before a stream begins, `MessageStream` sends them as its last event.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import msgspec
from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from jaxengine import InvalidRequest
from serving.anthropic.wire import MessageError, MessageErrorDetail
from serving.errors import ClientLeft, refusal_of
from serving.stream import EventStream, event

logger = logging.getLogger(__name__)

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
NAMES = {"stop": "stop_sequences", "structured_outputs.json": "output_config.format"}  # of chat requests' fields here


class FailureRoute(APIRoute):
    """Routes whose failures have this shape."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except ClientLeft:
                raise
            except Exception as error:
                return failure_response(error, request.scope)

        return answer


class MessageStream(EventStream):
    """`events`: encoded. It has no end mark: the last event is one of the protocol's."""

    def __init__(self, events: AsyncGenerator[bytes, None], request_id: str | None) -> None:
        super().__init__(events, last=b"")
        self.request_id = request_id

    def failure(self, error: Exception) -> bytes:
        return event(_encoded(error, self.request_id), "error")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except Exception as error:  # nothing has been sent
            await failure_response(error, scope)(scope, receive, send)


def failure_response(error: Exception, scope: Scope) -> Response:
    refusal = refusal_of(error)
    if refusal.status == 500:
        logger.error("a message failed", exc_info=error)
    headers = {} if refusal.retry_after is None else {"Retry-After": str(refusal.retry_after)}
    body = _encoded(error, scope.get("request_id"))
    return Response(body, refusal.status, headers, media_type="application/json")


def _encoded(error: Exception, request_id: str | None) -> bytes:
    if isinstance(error, InvalidRequest) and error.field in NAMES:
        error = InvalidRequest(NAMES[error.field], error.problem, error.remedy)
    refusal = refusal_of(error)
    detail = MessageErrorDetail(TYPES.get(refusal.status, "api_error"), refusal.message)
    return msgspec.json.encode(MessageError(detail, request_id))
