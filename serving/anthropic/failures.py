"""Failures as Anthropic's clients see them: `{"type": "error", "error": {"type", "message"}}`.

The app answers with `failure_response` under this protocol's paths, `MessageStream` sends a failure as its last event.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

import msgspec
from fastapi import Response
from starlette.types import Scope

from jaxengine import InvalidRequest
from serving.anthropic.wire import MessageError, MessageErrorDetail
from serving.errors import error_headers, refusal_of
from serving.stream import EventStream, event

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
NAMES = {"stop": "stop_sequences", "structured_outputs.json": "output_config.format"}  # of chat requests' fields here


class MessageStream(EventStream):
    """`events`: encoded. It has no end mark: the last event is one of the protocol's."""

    def __init__(self, events: AsyncGenerator[bytes, None], request_id: str | None) -> None:
        super().__init__(events, last=b"")
        self.request_id = request_id

    def failure(self, error: Exception) -> bytes:
        return event(_encoded(error, self.request_id), "error")


def failure_response(error: Exception, scope: Scope) -> Response:
    body = _encoded(error, scope.get("request_id"))
    return Response(body, refusal_of(error).status, error_headers(error), media_type="application/json")


def _encoded(error: Exception, request_id: str | None) -> bytes:
    if isinstance(error, InvalidRequest) and error.field in NAMES:
        error = InvalidRequest(NAMES[error.field], error.problem, error.remedy)
    refusal = refusal_of(error)
    detail = MessageErrorDetail(TYPES.get(refusal.status, "api_error"), refusal.message)
    return msgspec.json.encode(MessageError(detail, request_id))
