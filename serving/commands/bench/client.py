"""One request of `bench serve`: sent, streamed back, and timed by vLLM's definitions. `traffic.py` sends many."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import httpx

from serving.commands.bench.texts import Prompt
from serving.commands.events import EventReader, reason


@dataclass(frozen=True)
class Target:
    """Where requests go and what they look like. `extra`: fields for every body."""

    endpoint: str
    model: str
    is_chat: bool = False
    ignore_eos: bool = False
    extra: dict[str, Any] = field(default_factory=dict)

    def body(self, prompt: Prompt) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.model, "stream": True, "stream_options": {"include_usage": True}}
        if self.is_chat:
            body |= {"messages": [{"role": "user", "content": prompt.text}], "max_completion_tokens": prompt.output_len}
        else:
            body |= {"prompt": prompt.text, "max_tokens": prompt.output_len}
        if self.ignore_eos:
            body["ignore_eos"] = True
        return body | self.extra


@dataclass
class Outcome:
    """What became of one request; times in seconds, `start` by time.perf_counter.

    ttft: until the first chunk with a choice, however empty. itl: between such chunks. latency: until the last of
    them; for chats, the usage behind it counts as well. output_tokens: as the server counts them, None if it doesn't.
    """

    prompt_tokens: int
    start: float = 0.0
    ttft: float = 0.0
    latency: float = 0.0
    itl: list[float] = field(default_factory=list)
    text: str = ""
    output_tokens: int | None = None
    error: str = ""
    success: bool = False


async def send(http: httpx.AsyncClient, target: Target, prompt: Prompt) -> Outcome:
    """Never raises for what the server or the network does: that is an outcome as well."""
    outcome = Outcome(prompt.num_tokens, start=time.perf_counter())
    try:
        async with http.stream("POST", target.endpoint, json=target.body(prompt)) as answer:
            if answer.is_success:
                await _follow(answer, target.is_chat, outcome)
            else:
                said = (await answer.aread()).decode(errors="replace")
                outcome.error = f"status {answer.status_code}: {said[:1000] or answer.reason_phrase}"
    except (httpx.HTTPError, ValueError) as error:
        outcome.error = f"{type(error).__name__}: {error}"
    outcome.success = not outcome.error
    return outcome


async def _follow(answer: httpx.Response, is_chat: bool, outcome: Outcome) -> None:
    events, pieces = EventReader(), []
    newest = 0.0
    async for data in answer.aiter_raw():
        now = time.perf_counter()
        for event in events.feed(data):
            if event.error is not None:
                outcome.error = reason(event.error)
            if event.choices:
                if newest:
                    outcome.itl.append(now - newest)
                else:
                    outcome.ttft = now - outcome.start
                newest = now
                pieces.append(event.choices[0].piece)
            elif is_chat and newest:
                newest = now
            if event.usage is not None and event.usage.completion_tokens is not None:
                outcome.output_tokens = event.usage.completion_tokens
    outcome.text = "".join(pieces)
    if newest:
        outcome.latency = newest - outcome.start
    elif not outcome.error:
        outcome.error = "the answer ended without a token"
