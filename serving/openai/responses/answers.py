"""Outputs of the engine → a response: `events` yields what a stream sends, `response` is what they add up to.

Streams, answers in one piece and answers in the background all run this one generator.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import aclosing

import msgspec
from msgspec import UNSET

from jaxengine.request import RequestOutput
from serving.errors import refusal_of
from serving.generation import Job, Outputs
from serving.openai.answers import finish_reason
from serving.openai.logprobs import Speller
from serving.openai.prompts import encode
from serving.openai.responses import wire
from serving.openai.responses.content_logprobs import ContentLogprobs
from serving.openai.responses.growing import Growing
from serving.openai.responses.request import ReasoningConfig, ResponsesRequest, TextConfig, own_names
from serving.openai.wire import TokenLogprob
from serving.reading import Reading
from serving.server import Server
from serving.stream import event
from serving.tools.events import Content, Event

STATUSES: dict[str, wire.Status] = {"stop": "completed", "length": "incomplete", "abort": "cancelled"}
LAST: dict[wire.Status, type[wire.OfResponse]] = {
    "completed": wire.Completed,
    "incomplete": wire.Incomplete,
    "cancelled": wire.Incomplete,
    "failed": wire.Failed,
}
CODES: dict[int, wire.ErrorCode] = {400: "invalid_prompt", 429: "rate_limit_exceeded"}


class ResponseAnswer:
    """One request's answer."""

    def __init__(self, server: Server, body: ResponsesRequest, job: Job, reading: Reading, *, stored: bool) -> None:
        self.server, self.body, self.job, self.reading = server, body, job, reading
        self._parser, self._growing = reading.parser(), Growing(reading.formats.call_id)
        self.response = response_to(server, body, job, stored)
        self.response.output = self._growing.items
        self._logprobs: ContentLogprobs | None = None
        self._begun = False
        self._status: wire.Status = "completed"
        self._number = 0  # of the next event
        self._thoughts: list[int] | None = None  # their tokens
        self._prompt_tokens = self._cached_tokens = self._output_tokens = 0

    @property
    def running(self) -> bool:
        return self.response.status in ("queued", "in_progress")

    async def events(self, outputs: Outputs) -> AsyncGenerator[list[bytes], None]:
        """Those of one output after the other, encoded. Raises as `outputs` does: `fail` has the events for that."""
        with own_names(self.body):
            async with aclosing(outputs):
                async for _, output in outputs:
                    if told := self._sent(self._grow(output)):
                        yield told
            thoughts = "".join(self._growing.thoughts)
            self._thoughts = await encode(self.server, thoughts, special=False) if thoughts else []
            yield self.end(self._status)

    def queue(self) -> list[bytes]:
        """The first events of a response that has to wait."""
        self.response.status = "queued"
        return self._sent([wire.Created(response=self.response), wire.Queued(response=self.response)])

    def fail(self, error: Exception) -> list[bytes]:
        refusal = refusal_of(error)
        code = CODES.get(refusal.status, "server_error")
        self.response.error = wire.ResponseError(code, refusal.message, refusal.param)
        return self.end("failed")

    def end(self, status: wire.Status) -> list[bytes]:
        """The last events."""
        response = self.response
        response.status = status
        if status == "completed":
            response.completed_at = int(time.time())
        elif status == "incomplete":
            response.incomplete_details = wire.IncompleteDetails("max_output_tokens")
        if self._begun:
            response.usage = self._usage()
        last = list(self._growing.close("completed" if status == "completed" else "incomplete"))
        return self._sent([*last, LAST[status](response=response)])

    def _sent(self, events: Iterable[wire.Event]) -> list[bytes]:
        """Each is encoded before the next one is made: what they tell of goes on growing."""
        encoded = []
        for each in events:
            each.sequence_number = self._number
            self._number += 1
            encoded.append(event(msgspec.json.encode(each), str(each.__struct_config__.tag)))
        return encoded

    def _grow(self, output: RequestOutput) -> Iterator[wire.Event]:
        (completion,) = output.outputs
        reason = finish_reason(self.job, completion)
        if not self._begun:
            self._begun = True
            if self.response.status != "queued":
                yield wire.Created(response=self.response)
            self.response.status = "in_progress"
            yield wire.InProgress(response=self.response)
            self._prompt_tokens = len(output.prompt_token_ids or ())
            self._cached_tokens = output.num_cached_tokens or 0
            self._logprobs = self._content_logprobs(output)
        self._output_tokens += len(completion.token_ids)
        for piece in (completion.text,) if self._logprobs is None else self._logprobs.pieces(completion):
            yield from self._told(self._parser.feed(piece))
        if reason is not None:
            yield from self._told(self._parser.finish())
            self._status = STATUSES[reason]

    def _told(self, events: Sequence[Event]) -> Iterator[wire.Event]:
        for each in self.reading.wanted(events):
            yield from self._growing.add(each, self._logprobs_of(each))

    def _logprobs_of(self, each: Event) -> Sequence[TokenLogprob]:
        return self._logprobs.of(each.text) if self._logprobs is not None and isinstance(each, Content) else ()

    def _content_logprobs(self, output: RequestOutput) -> ContentLogprobs | None:
        if self.job.params.logprobs is None:
            return None
        as_ids = bool(self.body.return_tokens_as_token_ids or self.server.config.return_tokens_as_token_ids)
        speller = Speller(self.server.tokenizer, as_ids)
        return ContentLogprobs(speller, output.prompt_token_ids or [], self.job.params, self.body.top_logprobs or 0)

    def _usage(self) -> wire.ResponseUsage:
        details = self.server.config.enable_prompt_tokens_details
        if self._thoughts is None:  # it was broken off
            self._thoughts = self.server.tokenizer.encode("".join(self._growing.thoughts), add_special_tokens=False)
        return wire.ResponseUsage(
            input_tokens=self._prompt_tokens,
            input_tokens_details=wire.InputTokensDetails(self._cached_tokens) if details else UNSET,
            output_tokens=self._output_tokens,
            output_tokens_details=wire.OutputTokensDetails(min(len(self._thoughts), self._output_tokens)),
            total_tokens=self._prompt_tokens + self._output_tokens,
        )


def response_to(server: Server, body: ResponsesRequest, job: Job, stored: bool) -> wire.Response:
    """Before anything is made."""
    return wire.Response(
        id=job.request_id,
        created_at=int(job.arrival_time),
        model=server.name,
        background=bool(body.background),
        store=stored,
        instructions=body.instructions,
        previous_response_id=body.previous_response_id,
        max_output_tokens=body.max_output_tokens,
        max_tool_calls=body.max_tool_calls,
        metadata=body.metadata or {},
        parallel_tool_calls=body.parallel_tool_calls is not False,
        prompt_cache_key=body.prompt_cache_key,
        reasoning=body.reasoning or ReasoningConfig(),
        safety_identifier=body.safety_identifier,
        temperature=job.params.temperature,
        text=body.text or TextConfig(),
        tool_choice=body.tool_choice or "auto",
        tools=body.tools or [],
        top_logprobs=body.top_logprobs or 0,
        top_p=job.params.top_p,
        truncation=body.truncation or "disabled",
        user=body.user,
    )
