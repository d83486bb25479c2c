"""A response that is made while nobody waits for it. Its events are kept, for those who want to follow.

`endpoints.py` starts it; it ends by itself, by `cancel`, or with the server, which waits for it as for open requests.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, aclosing

from serving.errors import refusal_of
from serving.generation import Job, Outputs, admitted
from serving.openai.responses.answers import ResponseAnswer
from serving.server import Server

logger = logging.getLogger(__name__)


class Background:
    """`events`: encoded, by their sequence numbers."""

    def __init__(self, answer: ResponseAnswer) -> None:
        self.answer = answer
        self.events = answer.queue()
        self._more = asyncio.Event()  # another one each time
        self._ended = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self, server: Server, job: Job, place: ExitStack, when_ended: Callable[[], None]) -> None:
        """`place`: that it holds among the requests that are let in."""

        def ended(task: asyncio.Task[None]) -> None:
            place.close()
            if self.answer.running:  # it was cancelled, perhaps before its first step
                self._tell(self.answer.end("cancelled"))
            when_ended()
            self._ended.set()

        self._task = server.spawn(self._run(admitted(server, job)))
        self._task.add_done_callback(ended)

    async def follow(self, after: int = -1) -> AsyncGenerator[bytes, None]:
        """The events behind this one, as they come."""
        next = after + 1
        while next < len(self.events) or self.answer.running:
            if next >= len(self.events):
                await self._more.wait()
                continue
            yield b"".join(self.events[next:])
            next = len(self.events)

    async def cancel(self) -> None:
        """Returns when it has ended, whatever its end was."""
        if self._task is not None:
            self._task.cancel()
        await self._ended.wait()

    async def _run(self, outputs: Outputs) -> None:
        try:
            async with aclosing(self.answer.events(outputs)) as events:
                async for some in events:
                    self._tell(some)
        except Exception as error:
            if refusal_of(error).status == 500:
                logger.exception("a response in the background failed")
            self._tell(self.answer.fail(error))

    def _tell(self, events: list[bytes]) -> None:
        self.events += events
        self._more.set()
        self._more = asyncio.Event()
