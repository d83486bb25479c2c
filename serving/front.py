"""What every HTTP request passes first: its id, its API key, the count of open requests, and a line in the log.

A plain ASGI layer around the app: it costs streams nothing per event.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import time
from collections import Counter
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.config import ServerConfig
from serving.errors import Answer, Refusal

if TYPE_CHECKING:
    from serving.tracing import Traces

logger = logging.getLogger(__name__)

PROBES = frozenset({"/health", "/live", "/ready", "/ping"})
OPEN_PATHS = PROBES | {"/"}  # without a key: the console carries no data
REQUEST_ID = re.compile(rb"[!-~]{1,200}")
LEFT = 499  # status in the log of a client that did not wait for an answer


class Front:
    """`answered` counts requests by (method, route, status); `open` are those without an answer yet."""

    def __init__(self, app: ASGIApp, config: ServerConfig, answer: Answer, traces: Traces | None = None) -> None:
        """`answer`: to those who may not pass."""
        self.app, self.config, self.answer, self.traces = app, config, answer, traces
        self.keys = [_digest(key.encode()) for key in config.api_key]
        self.open = 0
        self.answered: Counter[tuple[str, str, int]] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), LEFT
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(16).encode()
        scope["request_id"] = request_id.decode()

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self.config.enable_request_id_headers:
                    message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
            await send(message)

        if self.traces is not None:
            self.traces.continue_from(headers)
        self.open += 1
        try:
            if self._may_pass(scope, headers):
                await self.app(scope, receive, answer)
            else:
                refusal = Refusal(401, "the API key is missing or wrong; send `Authorization: Bearer KEY`")
                await self.answer(refusal, scope)(scope, receive, answer)
        finally:
            self.open -= 1
            self._note(scope, status, time.perf_counter() - start)

    def _may_pass(self, scope: Scope, headers: dict[bytes, bytes]) -> bool:
        """Compares with every key in full, so that the time taken tells nothing."""
        if not self.keys or own_path(scope) in OPEN_PATHS:
            return True
        kind, _, token = headers.get(b"authorization", b"").partition(b" ")
        given = token.strip() if kind.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        digest = _digest(given)
        return sum([hmac.compare_digest(digest, key) for key in self.keys]) > 0

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")  # not the path: clients may invent any number of them
        method = scope["method"] if scope["method"] in ("GET", "POST", "HEAD", "OPTIONS", "DELETE") else "other"
        self.answered[method, route, status] += 1
        if self.config.enable_log_requests and own_path(scope) not in PROBES:
            logger.info(
                "%s %s %d %.0f ms %s",
                method,
                route,
                status,
                seconds * 1000,
                scope["request_id"],
                extra={"method": method, "route": route, "status": status, "seconds": round(seconds, 6),
                       "request_id": scope["request_id"]},
            )  # fmt: skip


def own_path(scope: Scope) -> str:
    """Without what a proxy shows before it, which uvicorn puts there."""
    return scope["path"].removeprefix(scope.get("root_path", ""))


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
