"""One HTTP/1.1 connection of `bench serve`, with little work per piece of an answer.

httpx's own transport parses in Python, which costs the client as much a token as the token cost the server. This one
parses in C (httptools, as the server does) and hands on what one read of the socket brought as one piece.
`connections.py` puts it under an httpx client.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from typing import cast

import httptools
import httpx


class OneConnection(httpx.AsyncBaseTransport):
    """One request at a time; the connection stays open for the next one, and opens anew if the server closed it."""

    def __init__(self, certificates: ssl.SSLContext, connect_seconds: float) -> None:
        self.certificates, self.connect_seconds = certificates, connect_seconds
        self.answer: Answer | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        content = await request.aread()
        answer = self.answer
        if answer is None or answer.lost:
            answer = self.answer = await self._connect(request.url)
        head = [b"%b %b HTTP/1.1" % (request.method.encode(), request.url.raw_path)]
        head += [b"%b: %b" % header for header in request.headers.raw]
        answer.begin()
        answer.transport.write(b"\r\n".join(head) + b"\r\n\r\n" + content)
        await answer.headers_are_there()
        return httpx.Response(answer.parser.get_status_code(), headers=answer.headers, stream=Body(answer))

    async def _connect(self, url: httpx.URL) -> Answer:
        secure = url.scheme == "https"
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.connect_seconds):
                _, answer = await loop.create_connection(
                    Answer, url.host, url.port or (443 if secure else 80), ssl=self.certificates if secure else None
                )
        except TimeoutError:
            raise httpx.ConnectTimeout(f"no connection within {self.connect_seconds:g} s") from None
        except OSError as error:
            raise httpx.ConnectError(str(error)) from error
        return answer

    async def aclose(self) -> None:
        if self.answer is not None:
            self.answer.transport.close()


class Body(httpx.AsyncByteStream):
    """The pieces of an answer. Left before its end, it takes the connection with it."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        answer = self.answer
        while (data := answer.take()) or not answer.complete:
            if data:
                yield data
            else:
                await answer.something()

    async def aclose(self) -> None:
        if not (self.answer.complete and self.answer.parser.should_keep_alive()):
            self.answer.transport.close()
            self.answer.lost = True


class Answer(asyncio.Protocol):
    """What comes over the connection: told by the event loop in bytes, and by the parser in parts of an answer."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.lost = False
        self.waiting: asyncio.Future[None] | None = None
        self.begin()

    def begin(self) -> None:
        """Another answer is to come."""
        self.parser = httptools.HttpResponseParser(self)
        self.headers: list[tuple[bytes, bytes]] = []
        self.pieces: list[bytes] = []
        self.has_headers = self.complete = False
        self.error: httpx.HTTPError | None = None

    async def headers_are_there(self) -> None:
        while not self.has_headers:
            await self.something()

    async def something(self) -> None:
        """Wait until more has come. Raises httpx.HTTPError if nothing more will."""
        if self.error is not None:
            raise self.error
        self.waiting = asyncio.get_running_loop().create_future()
        await self.waiting

    def take(self) -> bytes:
        """What has come of the body since the last time."""
        pieces, self.pieces = self.pieces, []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _wake(self) -> None:
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result(None)

    # Of the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own are no subclass

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.error = httpx.RemoteProtocolError(str(error))
            self.transport.close()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        ends_so = {b"content-length", b"transfer-encoding"}.isdisjoint(name.lower() for name, _ in self.headers)
        if self.has_headers and ends_so:
            self.complete = True
        elif not self.complete:
            self.error = self.error or httpx.RemoteProtocolError(str(exc or "the server closed the connection"))
        self._wake()

    # Of the parser

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.has_headers = True

    def on_body(self, body: bytes) -> None:
        self.pieces.append(body)

    def on_message_complete(self) -> None:
        self.complete = True
