"""Answers that arrive in pieces: server-sent events, and the end of the work when the client leaves.

Endpoints give `EventStream` an iterator of encoded events. Nothing is sent before the first one is there, so that
whatever goes wrong until then is answered with its own status.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serving.errors import ClientLeft, error_body, refusal_of

logger = logging.getLogger(__name__)

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # proxies would keep the events back
]
DONE = b"data: [DONE]\n\n"


def event(data: bytes, name: str | None = None) -> bytes:
    """One event. `data`: a line of JSON."""
    return b"data: %b\n\n" % data if name is None else b"event: %b\ndata: %b\n\n" % (name.encode(), data)


@asynccontextmanager
async def while_connected(receive: Receive) -> AsyncIterator[None]:
    """Cancels the block when the client closes its connection, and raises ClientLeft. Needs the body to be read."""
    work = asyncio.current_task()
    assert work is not None
    left = False

    async def watch() -> None:
        nonlocal left
        while (await receive())["type"] != "http.disconnect":
            pass
        left = True
        work.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if not left:
            raise
        work.uncancel()
        raise ClientLeft from None
    finally:
        watcher.cancel()


class EventStream(Response):
    """Sends events as the iterator makes them, then `last`. A failure on the way becomes an event, see `failure`."""

    def __init__(self, events: AsyncGenerator[bytes, None], last: bytes = DONE) -> None:
        self.status_code, self.background = 200, None
        self.events, self.last = events, last

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        last = self.last
        async with aclosing(self.events) as events:
            started = False
            try:
                async with while_connected(receive):
                    async for data in events:
                        if not started:
                            started = True
                            await send({"type": "http.response.start", "status": 200, "headers": list(HEADERS)})
                        await send({"type": "http.response.body", "body": data, "more_body": True})
            except ClientLeft:
                return  # nobody reads what would follow
            except Exception as error:
                if not started:
                    raise
                if refusal_of(error).status == 500:
                    logger.exception("a stream failed")
                last = self.failure(error) + last
        await send({"type": "http.response.body", "body": last, "more_body": False})

    def failure(self, error: Exception) -> bytes:
        """The event that tells it."""
        return event(error_body(refusal_of(error)))
