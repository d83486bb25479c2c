"""POST /v1/chat/completions: a conversation in, messages out, whole or as a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from fastapi import APIRouter, Request, Response
from msgspec import UNSET, UnsetType

from jaxengine.request import CompletionOutput, RequestOutput
from serving.bodies import read
from serving.generation import Job, outputs
from serving.openai import wire
from serving.openai.answers import Answers, json_response, results
from serving.openai.chat_request import ChatRequest, chat_job
from serving.openai.logprobs import chat_logprobs, prompt_logprobs
from serving.openapi import operation
from serving.reading import Reading
from serving.server import Server
from serving.stream import EventStream, while_connected
from serving.tools.events import CallArguments, CallStart, Content, Event, Reasoning, fold
from serving.tools.message import MessageParser

Answer = TypeVar("Answer", wire.ChatCompletion, wire.ChatCompletionChunk)
TYPES = (ChatRequest, wire.ChatCompletion, wire.ChatCompletionChunk)


def routes(server: Server) -> APIRouter:
    router = APIRouter(tags=["OpenAI"])

    @router.post("/v1/chat/completions", **operation(ChatRequest, wire.ChatCompletion, stream=wire.ChatCompletionChunk))
    async def chat_completions(request: Request) -> Response:
        """Answer a conversation."""
        server.admission.check()
        body = await read(request, ChatRequest, server.config.max_body_size)
        job, reading = await chat_job(server, server.request_id(request, body.request_id, "chatcmpl"), body)
        answers = ChatAnswers(server, body, job, reading)
        if body.stream:
            return EventStream(answers.events(outputs(server, job)))
        async with while_connected(request.receive):
            (result,) = await results(server, job)
        return json_response(answers.whole(result))

    return router


class Choice:
    """One of the n answers while it grows: its text on the way to events, and whether it calls tools."""

    def __init__(self, parser: MessageParser) -> None:
        self.parser = parser
        self.begun = False
        self.called = False

    def events(self, completion: CompletionOutput, prefix: str) -> list[Event]:
        """What the new text says. `prefix`: text that the answer begins with."""
        events: list[Event] = [Content(prefix)] if prefix and not self.begun else []
        events += self.parser.feed(completion.text)
        if completion.finish_reason is not None:
            events += self.parser.finish()
        self.called = self.called or any(isinstance(event, CallStart) for event in events)
        return events


class ChatAnswers(Answers[ChatRequest]):
    """Outputs as chat completions and as their chunks."""

    def __init__(self, server: Server, body: ChatRequest, job: Job, reading: Reading) -> None:
        super().__init__(server, body, job)
        self.choices = [Choice(reading.parser()) for _ in range(job.params.n)]
        self.reading, self.call_id = reading, server.formats.call_id
        self.role = server.config.response_role
        last = body.messages[-1]
        echoed = last.get("content") if body.echo and last.get("role") == self.role else None
        self.prefix = echoed if isinstance(echoed, str) else ""

    def whole(self, output: RequestOutput) -> wire.ChatCompletion:
        self.count(0, output)
        answer = wire.ChatCompletion(
            **self.head,
            choices=[self._choice(completion) for completion in output.outputs],
            usage=self.usage(),
        )
        return self._with_prompt(answer, output)

    def chunks(self, place: int, output: RequestOutput) -> Iterator[wire.ChatCompletionChunk]:
        first = not any(choice.begun for choice in self.choices)
        self.count(place, output)
        for completion in output.outputs:
            choice = self._chunk_choice(completion)
            if choice is not None:
                chunk = self._chunk([choice], self.usage_so_far())
                yield self._with_prompt(chunk, output) if first else chunk
                first = False

    def last_chunk(self) -> wire.ChatCompletionChunk:
        return self._chunk([], self.usage())

    def _chunk(self, choices: list[wire.ChunkChoice], usage: wire.OptionalUsage) -> wire.ChatCompletionChunk:
        return wire.ChatCompletionChunk(**self.head, choices=choices, usage=usage)

    def _choice(self, completion: CompletionOutput) -> wire.ChatChoice:
        choice = self.choices[completion.index]
        message = fold(self._shown(choice.events(completion, self.prefix)))
        calls = [
            wire.ToolCall(id=self.call_id(), function=wire.FunctionCall(name=call.name, arguments=call.arguments))
            for call in message.calls
        ]
        return wire.ChatChoice(
            index=completion.index,
            message=wire.Message(
                role=self.role,
                content=message.content if calls or message.reasoning else message.content or "",
                reasoning=UNSET if message.reasoning is None else message.reasoning,
                tool_calls=calls or UNSET,
            ),
            logprobs=self._logprobs(completion),
            finish_reason=self._finish_reason(choice, completion),
            stop_reason=completion.stop_reason,
            token_ids=self._token_ids(completion),
        )

    def _chunk_choice(self, completion: CompletionOutput) -> wire.ChunkChoice | None:
        """None: nothing that a client could see has happened."""
        choice = self.choices[completion.index]
        delta = delta_of(self._shown(choice.events(completion, self.prefix)), self.call_id)
        finish_reason = self._finish_reason(choice, completion)
        if not choice.begun:
            choice.begun = True
            delta = delta or wire.Delta(content="")
            delta.role = self.role
        elif delta is None and finish_reason is None and not (self.body.logprobs or self.body.return_token_ids):
            return None
        return wire.ChunkChoice(
            index=completion.index,
            delta=delta or wire.Delta(),
            logprobs=self._logprobs(completion),
            finish_reason=finish_reason,
            stop_reason=UNSET if finish_reason is None else completion.stop_reason,
            token_ids=self._token_ids(completion),
        )

    def _shown(self, events: Iterable[Event]) -> list[Event]:
        events = self.reading.wanted(events)
        if self.body.include_reasoning is False:
            return [event for event in events if not isinstance(event, Reasoning)]
        return events

    def _finish_reason(self, choice: Choice, completion: CompletionOutput) -> str | None:
        reason = self.finish_reason(completion)
        return "tool_calls" if reason == "stop" and choice.called else reason

    def _logprobs(self, completion: CompletionOutput) -> wire.ChatLogprobs | None:
        if completion.logprobs is None:
            return None
        k = self.body.top_logprobs or 0
        return chat_logprobs(completion.token_ids, completion.logprobs, self.speller, k)

    def _token_ids(self, completion: CompletionOutput) -> list[int] | UnsetType:
        return list(completion.token_ids) if self.body.return_token_ids else UNSET

    def _with_prompt(self, answer: Answer, output: RequestOutput) -> Answer:
        """What was asked for about the prompt."""
        if self.body.return_token_ids:
            answer.prompt_token_ids = output.prompt_token_ids or []
        if self.body.return_prompt_text:
            answer.prompt_text = self.prompt_text(output)
        if output.prompt_logprobs is not None:
            answer.prompt_logprobs = prompt_logprobs(output.prompt_logprobs)
        return answer


def delta_of(events: Iterable[Event], call_id: Callable[[], str]) -> wire.Delta | None:
    """The events as one delta; None without any."""
    content, reasoning, calls = "", "", dict[int, wire.ToolCallDelta]()
    for event in events:
        match event:
            case Content(text):
                content += text
            case Reasoning(text):
                reasoning += text
            case CallStart(index, name):
                function = wire.FunctionDelta(name=name, arguments="")
                calls[index] = wire.ToolCallDelta(index=index, id=call_id(), type="function", function=function)
            case CallArguments(index, text):
                if index not in calls:
                    calls[index] = wire.ToolCallDelta(index=index, function=wire.FunctionDelta(arguments=""))
                calls[index].function.arguments += text
    if not (content or reasoning or calls):
        return None
    return wire.Delta(content=content or UNSET, reasoning=reasoning or UNSET, tool_calls=list(calls.values()) or UNSET)
