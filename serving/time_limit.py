"""How long one request may take: what it asks for (`timeout`) or what the server allows, whichever is less.

`generation.py` runs every Job under a limit. Time counts from the arrival, in the queue too. When it is over the engine
ends the sequences before its next step, and the client gets a 408.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxengine.request import RequestOutput
from serving.errors import Refusal

if TYPE_CHECKING:
    from serving.generation import Job
    from serving.server import Server


@dataclass(eq=False)
class TimeLimit:
    """`end`: by the event loop's clock; infinity for none."""

    seconds: float = math.inf
    end: float = math.inf
    passed: bool = False

    def checked(self, output: RequestOutput) -> RequestOutput:
        """Raises Refusal for an output that has an end because the time is over."""
        if self.passed and any(completion.finish_reason == "abort" for completion in output.outputs):
            raise self.refusal()
        return output

    def refusal(self) -> Refusal:
        return Refusal(408, f"the answer was not complete within {self.seconds:g} s", param="timeout")


@contextmanager
def time_limit(server: Server, job: Job, ids: list[str]) -> Iterator[TimeLimit]:
    """Ends the engine's requests of these ids when the job's time is over."""
    seconds = min([limit for limit in (job.timeout, server.config.request_timeout) if limit is not None], default=None)
    if seconds is None:
        yield TimeLimit()
        return
    loop = asyncio.get_running_loop()
    limit = TimeLimit(seconds, loop.time() + max(job.arrival_time + seconds - time.time(), 0.0))

    def is_over() -> None:
        limit.passed = True
        server.spawn(server.engine.abort(ids))

    timer = loop.call_at(limit.end, is_over)
    try:
        yield limit
    finally:
        timer.cancel()
