"""The open requests of one client of an engine: what their sequences have got so far, and the outputs made of it.

`engine_client.py` adds requests, hands over what the engine says, and tells the engine of the sequences that end here.
No socket is known here.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field

from jaxengine import wire
from jaxengine.metrics import Metrics
from jaxengine.outputs import OutputProcessor, joined
from jaxengine.plan import Sampled
from jaxengine.prompts import Prompt
from jaxengine.request import InvalidRequest, Request, RequestOutput, RequestOutputKind, SamplingParams
from jaxengine.tokenizer import Tokenizer

BEHIND = 16  # outputs that wait for one stream, more than a dispatch brings: then they are handed over as one


@dataclass(eq=False)
class Sequence:
    """One of the n sequences of a request, while it runs."""

    number: int
    parent: int
    request: Request  # token_ids grow here as they do in the engine
    replays: int = 0  # since its last token


@dataclass(eq=False)
class Open:
    """One request and its way back to the task that streams it."""

    params: SamplingParams
    queue: asyncio.Queue[RequestOutput | Exception] = field(default_factory=asyncio.Queue)
    sequences: list[Sequence] = field(default_factory=list)

    async def next(self) -> RequestOutput:
        """Raises what ended the request."""
        output = await self.queue.get()
        if isinstance(output, Exception):
            raise output
        return self._caught_up(output) if self.queue.qsize() >= BEHIND else output

    def _caught_up(self, first: RequestOutput) -> RequestOutput:
        """All that waits as one output: who reads is slower than the engine, and a chunk costs more than its tokens."""
        outputs = [first]
        while not self.queue.empty():
            output = self.queue.get_nowait()
            if isinstance(output, Exception):
                self.queue.put_nowait(output)  # the last that comes
                break
            outputs.append(output)
        return joined(outputs) if self.params.output_kind is RequestOutputKind.DELTA else outputs[-1]


class ClientStreams:
    """`open`: by the request's id; `sequences`: those that run, by their number."""

    def __init__(self, tokenizer: Tokenizer | None, metrics: Metrics) -> None:
        self.outputs = OutputProcessor(tokenizer, metrics)
        self.open: dict[str, Open] = {}
        self.sequences: dict[int, Sequence] = {}
        self.numbers = itertools.count(1)

    def add(
        self, request_id: str, prompt: Prompt, params: SamplingParams, arrival_time: float, requests: list[Request]
    ) -> Open:
        """Open a request, which is these sequences."""
        self.outputs.add(request_id, prompt.text, prompt.token_ids, params, arrival_time)
        entry = self.open[request_id] = Open(params)
        parent = next(self.numbers) if len(requests) > 1 else 0
        entry.sequences = [Sequence(next(self.numbers), parent, request) for request in requests]
        self.sequences |= {sequence.number: sequence for sequence in entry.sequences}
        return entry

    def close(self, request_id: str) -> list[int]:
        """Nobody streams it any more. Returns the sequences that still ran."""
        entry = self.open.pop(request_id)
        self.outputs.abort(request_id)
        return self._forget(sequence.number for sequence in entry.sequences)

    def abort(self, request_id: str, reason: str = "abort") -> list[int]:
        """Its stream gets a last output with this finish_reason. Returns the sequences that still ran."""
        entry = self.open.get(request_id)
        if entry is None or (output := self.outputs.abort(request_id, reason)) is None:
            return []
        entry.queue.put_nowait(output)
        return self._forget(sequence.number for sequence in entry.sequences)

    def refuse(self, refused: wire.Refused) -> None:
        """The engine cannot run it."""
        sequence = self.sequences.pop(refused.number, None)
        if sequence is None:
            return
        request_id = sequence.request.user_request_id
        self.outputs.drop(request_id)
        if (entry := self.open.get(request_id)) is not None:
            entry.queue.put_nowait(InvalidRequest(refused.field, refused.problem, refused.remedy))

    def fail(self, error: Exception) -> None:
        """All of them raise it."""
        for entry in self.open.values():
            entry.queue.put_nowait(error)

    def take(self, news: list[wire.News]) -> list[int]:
        """Make outputs of the tokens, one a token, and hand them to the streams.

        Returns the sequences that a stop string has ended: the engine thinks that they run.
        """
        ended: list[int] = []
        alive = [(each, sequence) for each in news if (sequence := self.sequences.get(each.number)) is not None]
        for step in range(max((len(each.tokens) for each, _ in alive), default=0)):
            sampled = [_sampled(each, sequence, step) for each, sequence in alive if step < len(each.tokens)]
            outputs, stopped = self.outputs.process(sampled)
            for output in outputs:
                if (entry := self.open.get(output.request_id)) is not None:
                    entry.queue.put_nowait(output)
            if stopped:
                requests = {id(request) for request, _ in stopped}
                ended += self._forget(each.number for each, s in alive if id(s.request) in requests)
        self._forget(each.number for each, _ in alive if each.finish_reason is not None)
        return ended

    def _forget(self, numbers: Iterable[int]) -> list[int]:
        """Those that ran until now."""
        return [number for number in numbers if self.sequences.pop(number, None) is not None]


def _sampled(news: wire.News, sequence: Sequence, step: int) -> Sampled:
    """Token `step` of the news, noted in the sequence."""
    request, token = sequence.request, news.tokens[step]
    sequence.replays = 0
    if request.scheduled_time is None:
        request.num_cached_tokens, request.scheduled_time = news.num_cached_tokens, news.scheduled_time
    request.token_ids.append(token)
    sampled = Sampled(request, token)
    if step == len(news.tokens) - 1:
        sampled.finish_reason, sampled.stop_reason, sampled.complete = (
            news.finish_reason,
            news.stop_reason,
            news.complete,
        )
    if news.logprobs:
        sampled.logprobs = news.logprobs[step].row()
    if news.prompt_logprobs is not None and step == 0:
        sampled.prompt_logprobs = [row.row() for row in news.prompt_logprobs]
    return sampled
