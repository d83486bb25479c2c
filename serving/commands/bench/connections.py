"""The connections of `bench serve`: as many as there are requests under way, kept open for the next ones.

httpx has a pool of its own, which looks through all its connections whenever a request begins or ends: with a thousand
of them that takes more time than the server does. So each connection here is a client by itself, on `transport.py`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx

from serving.commands.bench.transport import OneConnection

CONNECT_SECONDS = 60.0  # thousands of connections may open at once


class Connections:
    """`open` makes one more. Closed by `async with`."""

    def __init__(self, open: Callable[[], httpx.AsyncClient]) -> None:
        self.open = open
        self.opened: list[httpx.AsyncClient] = []
        self.idle: list[httpx.AsyncClient] = []

    @asynccontextmanager
    async def one(self) -> AsyncIterator[httpx.AsyncClient]:
        """An idle one, or a new one; nobody else has it meanwhile."""
        if not self.idle:
            self.opened.append(self.open())
            self.idle.append(self.opened[-1])
        http = self.idle.pop()
        try:
            yield http
        finally:
            self.idle.append(http)

    async def __aenter__(self) -> Connections:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await asyncio.gather(*(http.aclose() for http in self.opened))


def connections(base_url: str, headers: dict[str, str]) -> Connections:
    certificates = ssl.create_default_context()  # read once for all
    headers = {**headers, "Accept-Encoding": "identity"}  # the chunks are read as they come

    def open() -> httpx.AsyncClient:
        transport = OneConnection(certificates, CONNECT_SECONDS)
        return httpx.AsyncClient(base_url=base_url, headers=headers, transport=transport, verify=certificates)

    return Connections(open)
