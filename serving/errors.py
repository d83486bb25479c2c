"""Failures and how clients see them: `{"error": {"message", "type", "param", "code"}}` with the status of the kind.

Endpoints raise; the handlers that `install` puts into the app answer, in the protocol of the path (`app.py`). A stream
that has begun sends the same object as its last event.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import Scope

from jaxengine import EngineDeadError, InvalidRequest

TYPES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    408: "RequestTimeoutError",
    413: "RequestTooLargeError",
    429: "TooManyRequestsError",
    500: "InternalServerError",
    503: "ServiceUnavailableError",
}


Answer = Callable[[Exception, Scope], Response]  # what a failure is answered with


class ErrorDetail(msgspec.Struct, kw_only=True):
    message: str
    type: str
    param: str | None = None
    code: int


class ErrorBody(msgspec.Struct):
    error: ErrorDetail


class Refusal(Exception):
    """A request that is answered with an error status. `retry_after`: seconds after which it may work."""

    def __init__(self, status: int, message: str, *, param: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.retry_after = status, message, param, retry_after


class ClientLeft(Exception):
    """The client closed its connection; nobody reads an answer."""


def refusal_of(error: Exception) -> Refusal:
    """Any failure as what the client is told. What went wrong inside is for the log alone."""
    match error:
        case Refusal():
            return error
        case InvalidRequest():
            return Refusal(400, str(error), param=error.field)
        case RecursionError():
            return Refusal(400, "the request is nested too deeply; send a flatter one")
        case EngineDeadError():
            return Refusal(503, "the engine has ended", retry_after=10)
        case RequestValidationError():
            wrong = error.errors()[0]
            name = str(wrong["loc"][-1])
            return Refusal(400, f"{name}: {wrong['msg']}", param=name)
        case HTTPException():
            return Refusal(error.status_code, str(error.detail))
        case _:
            return Refusal(500, "the server failed; its log says why")


def error_body(refusal: Refusal) -> bytes:
    kind = TYPES.get(refusal.status, "Error")
    detail = ErrorDetail(message=refusal.message, type=kind, param=refusal.param, code=refusal.status)
    return msgspec.json.encode(ErrorBody(detail))


def error_response(error: Exception, scope: Scope) -> Response:
    refusal = refusal_of(error)
    headers = error_headers(error)
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(error_body(refusal), refusal.status, headers, media_type="application/json")


def error_headers(error: Exception) -> dict[str, str]:
    """Those that do not depend on the protocol."""
    headers, refusal = dict(getattr(error, "headers", None) or {}), refusal_of(error)
    if refusal.retry_after is not None:
        headers["Retry-After"] = str(refusal.retry_after)
    if refusal.status == 408:
        headers["x-should-retry"] = "false"  # OpenAI's and Anthropic's clients would send it again
    return headers


def install(app: FastAPI, answer: Answer) -> None:
    async def answered(request: Request, error: Any) -> Response:
        return answer(error, request.scope)

    async def nobody_listens(request: Request, error: Any) -> Response:
        return Response(status_code=499)  # for the log: the connection is closed

    for kind in (
        Refusal,
        InvalidRequest,
        RecursionError,
        EngineDeadError,
        RequestValidationError,
        HTTPException,
        Exception,
    ):
        app.add_exception_handler(kind, answered)
    app.add_exception_handler(ClientLeft, nobody_listens)
