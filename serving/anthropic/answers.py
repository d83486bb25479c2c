"""Outputs of the engine → an answer of blocks, whole or as the events of a stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import aclosing
from functools import partial
from typing import Any

import msgspec

from jaxengine.request import CompletionOutput, RequestOutput
from serving.anthropic import wire
from serving.anthropic.blocks import UNSIGNED, Made, TextBlock, ThinkingBlock, ToolUseBlock
from serving.errors import Refusal
from serving.generation import Job, Outputs
from serving.openai.chat import Choice
from serving.reading import Reading
from serving.server import Server
from serving.stream import event
from serving.tools.events import CallArguments, CallStart, Content, Event, Reasoning, merged

STOP_REASONS: dict[str, wire.StopReason] = {"stop": "end_turn", "length": "max_tokens", "abort": "pause_turn"}


class MessageAnswer:
    """One request's answer."""

    def __init__(self, server: Server, job: Job, reading: Reading) -> None:
        self.server, self.job, self.reading = server, job, reading
        self.call_id = partial(reading.formats.call_id, "toolu_")
        self.choice = Choice(reading.parser())
        self.prompt_tokens = self.cached_tokens = self.output_tokens = 0

    def whole(self, output: RequestOutput) -> wire.AnswerMessage:
        (completion,) = output.outputs
        self._count(output)
        answer = self._message(blocks(self._events(completion), self.call_id))
        end = self._end(completion)
        answer.stop_reason, answer.stop_sequence = end.stop_reason, end.stop_sequence
        return answer

    async def stream(self, outputs: Outputs) -> AsyncGenerator[bytes, None]:
        """Encoded events."""
        growing = Growing(self.call_id)
        async with aclosing(outputs):
            async for _, output in outputs:
                yield b"".join(map(encoded, self._stream(output, growing)))

    def _stream(self, output: RequestOutput, growing: Growing) -> Iterator[wire.Event]:
        (completion,) = output.outputs
        self._count(output)
        if not self.choice.begun:
            self.choice.begun = True
            yield wire.MessageStart(self._message([]))
            yield wire.Ping()
        for piece in self._events(completion):
            yield from growing.add(piece)
        if completion.finish_reason is not None:
            end = self._end(completion)
            yield from growing.close()
            yield wire.MessageDelta(end, self._usage())
            yield wire.MessageStop()

    def _events(self, completion: CompletionOutput) -> list[Event]:
        return self.reading.wanted(self.choice.events(completion, ""))

    def _end(self, completion: CompletionOutput) -> wire.EndDelta:
        """Raises Refusal (500) when the engine failed."""
        reason, stop = completion.finish_reason, completion.stop_reason
        if reason == "error":
            raise Refusal(500, "the engine failed at this request")
        if reason == "stop" and isinstance(stop, str):  # even in the middle of a call
            return wire.EndDelta(stop_reason="stop_sequence", stop_sequence=stop)
        if reason == "stop" and self.choice.called:
            return wire.EndDelta(stop_reason="tool_use")
        return wire.EndDelta(stop_reason=STOP_REASONS[reason or "stop"])

    def _message(self, content: list[Made]) -> wire.AnswerMessage:
        return wire.AnswerMessage(id=self.job.request_id, model=self.server.name, content=content, usage=self._usage())

    def _count(self, output: RequestOutput) -> None:
        if not self.prompt_tokens:
            self.prompt_tokens = len(output.prompt_token_ids or ())
            self.cached_tokens = output.num_cached_tokens or 0
        self.output_tokens += sum(len(completion.token_ids) for completion in output.outputs)

    def _usage(self) -> wire.MessageUsage:
        if not self.server.config.enable_prompt_tokens_details:
            return wire.MessageUsage(input_tokens=self.prompt_tokens, output_tokens=self.output_tokens)
        return wire.MessageUsage(
            input_tokens=self.prompt_tokens - self.cached_tokens,
            cache_read_input_tokens=self.cached_tokens,
            output_tokens=self.output_tokens,
        )


class Growing:
    """A stream's blocks: one is open at a time."""

    def __init__(self, call_id: Callable[[], str]) -> None:
        self.call_id = call_id
        self.index = 0
        self.open: Made | None = None

    def add(self, piece: Event) -> Iterator[wire.Event]:
        match piece:
            case CallStart():
                yield from self._begin(piece)
            case CallArguments(_, text):
                yield wire.BlockDelta(self.index, wire.InputJsonDelta(text))
            case Content(text):
                if not isinstance(self.open, TextBlock):
                    yield from self._begin(Content(""))
                yield wire.BlockDelta(self.index, wire.TextDelta(text))
            case Reasoning(text):
                if not isinstance(self.open, ThinkingBlock):
                    yield from self._begin(Reasoning(""))
                yield wire.BlockDelta(self.index, wire.ThinkingDelta(text))

    def close(self) -> Iterator[wire.Event]:
        if self.open is None:
            return
        if isinstance(self.open, ThinkingBlock):
            yield wire.BlockDelta(self.index, wire.SignatureDelta(UNSIGNED))
        yield wire.BlockStop(self.index)
        self.open, self.index = None, self.index + 1

    def _begin(self, piece: Event) -> Iterator[wire.Event]:
        yield from self.close()
        (self.open,) = blocks([piece], self.call_id, signature="")
        yield wire.BlockStart(self.index, self.open)


def blocks(events: Iterable[Event], call_id: Callable[[], str], signature: str = UNSIGNED) -> list[Made]:
    """What the events add up to."""
    made: list[Made] = []
    for piece in merged(events):
        match piece:
            case Content(text):
                made.append(TextBlock(text=text))
            case Reasoning(text):
                made.append(ThinkingBlock(thinking=text, signature=signature))
            case CallStart(_, name):
                made.append(ToolUseBlock(id=call_id(), name=name, input={}))
            case CallArguments(_, text):
                call = made[-1]
                assert isinstance(call, ToolUseBlock)
                call.input = arguments(text)
    return made


def arguments(text: str) -> dict[str, Any]:
    """{} for those of a call that was cut off, as stop_reason tells."""
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError:
        return {}


def encoded(each: wire.Event) -> bytes:
    return event(msgspec.json.encode(each), str(each.__struct_config__.tag))
