"""Runs the prompts of one HTTP request: admission, and the outputs as they come, in the time that it has.

Every endpoint that generates makes a Job and iterates `outputs`; closing the iterator aborts what still runs, and so
does the end of the Job's time (`time_limit.py`).
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jaxengine.outputs import joined
from jaxengine.prompts import PromptLike
from jaxengine.request import BeamSearchParams, RequestOutput, SamplingParams
from serving.time_limit import TimeLimit, time_limit

if TYPE_CHECKING:
    from serving.server import Server

OneStream = AsyncGenerator[RequestOutput, None]
Outputs = AsyncGenerator[tuple[int, RequestOutput], None]  # with the place of the prompt


@dataclass(frozen=True)
class Job:
    """What the engine is asked for on behalf of one HTTP request."""

    request_id: str
    prompts: Sequence[PromptLike]
    params: SamplingParams
    priority: int = 0
    add_special_tokens: bool = True
    beams: BeamSearchParams | None = None  # search for them; `params` then says how they are shown
    timeout: float | None = None  # seconds from its arrival
    traced: bool = True  # by spans of its own
    arrival_time: float = field(default_factory=time.time)

    @property
    def num_sequences(self) -> int:
        return len(self.prompts) * self.params.n


@dataclass(eq=False)
class Running:
    """A Job on its way: the engine's ids of it, and how far it is."""

    request_id: str
    arrival_time: float
    ids: list[str]
    prompt_lengths: dict[int, int] = field(default_factory=dict)  # by place, as they become known
    output_tokens: int = 0

    @property
    def prompt_tokens(self) -> int:
        return sum(self.prompt_lengths.values())

    def count(self, place: int, output: RequestOutput) -> None:
        if place not in self.prompt_lengths:
            self.prompt_lengths[place] = len(output.prompt_token_ids or ())
        for completion in output.outputs:
            self.output_tokens += len(completion.token_ids)


async def outputs(server: Server, job: Job) -> Outputs:
    """(place of the prompt, its output), in the order of their coming.

    Raises Refusal when there is no place for it or it takes too long, InvalidRequest and EngineDeadError as the engine
    does.
    """
    with server.admission.enter(job.num_sequences):
        async with aclosing(admitted(server, job)) as stream:
            async for item in stream:
                yield item


async def admitted(server: Server, job: Job) -> Outputs:
    """The same for a job that has its place."""
    unique = secrets.token_hex(4)  # clients choose request ids, and may choose one twice
    ids = [f"{job.request_id}-{place}-{unique}" for place in range(len(job.prompts))]
    running = Running(job.request_id, job.arrival_time, ids)
    server.jobs.add(running)
    try:
        with time_limit(server, job, ids) as limit:
            streams = [_outputs(server, job, prompt, id, limit) for prompt, id in zip(job.prompts, ids, strict=True)]
            if len(streams) == 1:
                async with aclosing(streams[0]) as stream:
                    async for output in stream:
                        running.count(0, output)
                        yield 0, output
            else:
                async with aclosing(_merged(streams)) as merged:
                    async for place, output in merged:
                        running.count(place, output)
                        yield place, output
    finally:
        server.jobs.discard(running)


async def _outputs(server: Server, job: Job, prompt: PromptLike, request_id: str, limit: TimeLimit) -> OneStream:
    stream = server.engine.generate(
        prompt,
        job.params,
        request_id,
        priority=job.priority,
        add_special_tokens=job.add_special_tokens,
        arrival_time=job.arrival_time,
    )
    if server.traces is not None and job.traced:
        stream = server.traces.watch(stream, job)
    async with aclosing(stream):
        yield limit.checked(await _first(server, stream, limit))
        async for output in stream:
            yield limit.checked(output)


async def _first(server: Server, stream: OneStream, limit: TimeLimit) -> RequestOutput:
    """Raises Refusal when it does not come in time."""
    queue_timeout = server.config.queue_timeout
    patience = math.inf if queue_timeout is None else asyncio.get_running_loop().time() + queue_timeout
    end = min(patience, limit.end)
    try:
        async with asyncio.timeout_at(None if end == math.inf else end):
            return await anext(stream)
    except TimeoutError:
        if end == limit.end:
            raise limit.refusal() from None
        raise server.admission.overloaded(f"no token within {queue_timeout:g} s") from None


async def _merged(streams: Sequence[OneStream]) -> Outputs:
    ready: asyncio.Queue[tuple[int, RequestOutput | Exception]] = asyncio.Queue()

    async def pump(place: int, stream: OneStream) -> None:
        try:
            async with aclosing(stream):
                async for output in stream:
                    ready.put_nowait((place, output))
        except Exception as error:
            ready.put_nowait((place, error))

    tasks = [asyncio.create_task(pump(place, stream)) for place, stream in enumerate(streams)]
    unfinished = len(tasks)
    try:
        while unfinished:
            place, output = await ready.get()
            if isinstance(output, Exception):
                raise output
            unfinished -= output.finished
            yield place, output
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Collected:
    """Outputs of one prompt as one: what an answer in one piece is made from."""

    def __init__(self) -> None:
        self._output: RequestOutput | None = None

    def add(self, output: RequestOutput) -> None:
        self._output = output if self._output is None else joined([self._output, output])

    def whole(self) -> RequestOutput:
        assert self._output is not None
        self._output.outputs.sort(key=lambda completion: completion.index)
        return self._output


async def collect(server: Server, job: Job) -> list[RequestOutput]:
    """The finished output of each prompt. Raises as `outputs` does."""
    with server.admission.enter(job.num_sequences):
        return await collect_admitted(server, job)


async def collect_admitted(server: Server, job: Job) -> list[RequestOutput]:
    collected = [Collected() for _ in job.prompts]
    async with aclosing(admitted(server, job)) as stream:
        async for place, output in stream:
            collected[place].add(output)
    return [each.whole() for each in collected]
