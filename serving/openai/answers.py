"""What completions and chats share in turning outputs into answers: usage, prompt texts, and the stream of chunks."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Any, Generic, TypeVar

import msgspec
from fastapi import Response
from msgspec import UNSET

from jaxengine.request import CompletionOutput, InvalidRequest, RequestOutput
from serving.beams import search
from serving.errors import Refusal
from serving.generation import Collected, Job, Outputs, collect
from serving.openai import wire
from serving.openai.logprobs import Speller
from serving.openai.sampling import SamplingFields, wants_usage
from serving.server import Server
from serving.stream import event

Fields = TypeVar("Fields", bound=SamplingFields)
encode = msgspec.json.Encoder().encode


def json_response(answer: msgspec.Struct) -> Response:
    return Response(encode(answer), media_type="application/json")


async def results(server: Server, job: Job) -> list[RequestOutput]:
    """The finished output of each prompt, sampled or searched for."""
    return await collect(server, job) if job.beams is None else await search(server, job, job.beams)


class Answers(ABC, Generic[Fields]):
    """One request's answers. `chunks` of the outputs and `last_chunk` (its usage) are what a stream carries."""

    def __init__(self, server: Server, body: Fields, job: Job) -> None:
        self.server, self.body, self.job = server, body, job
        self.head: dict[str, Any] = {  # what the answer and each of its chunks begin with
            "id": job.request_id,
            "created": int(time.time()),
            "model": server.name,
            "system_fingerprint": server.fingerprint,
        }
        self.speller = Speller(
            server.engine.tokenizer, bool(body.return_tokens_as_token_ids or server.config.return_tokens_as_token_ids)
        )
        self.ends_with_usage, self.counts_always = wants_usage(server, body)
        self.completion_tokens = 0
        self._prompts: dict[int, tuple[int, int]] = {}  # place → tokens, cached tokens
        self._waiting: dict[int, Collected] = {}  # outputs of prompts whose logprobs have not come yet

    @abstractmethod
    def chunks(self, place: int, output: RequestOutput) -> Iterable[msgspec.Struct]: ...

    @abstractmethod
    def last_chunk(self) -> msgspec.Struct: ...

    async def events(self, outputs: Outputs) -> AsyncGenerator[bytes, None]:
        """The stream of one request, all but its end mark."""
        prompts_have_logprobs = self.job.params.prompt_logprobs is not None
        async with aclosing(outputs):
            async for place, output in outputs:
                complete = self._with_prompt_logprobs(place, output) if prompts_have_logprobs else output
                if complete is not None:
                    yield b"".join([event(encode(chunk)) for chunk in self.chunks(place, complete)])
        if self.ends_with_usage:
            yield event(encode(self.last_chunk()))

    def _with_prompt_logprobs(self, place: int, output: RequestOutput) -> RequestOutput | None:
        """With n > 1 another sequence may come before the one that computes the prompt's logprobs: it waits."""
        if place in self._prompts:
            return output
        self._waiting.setdefault(place, Collected()).add(output)
        if output.prompt_logprobs is None and not output.finished:  # it may end without them, when it is aborted
            return None
        return self._waiting.pop(place).whole()

    def count(self, place: int, output: RequestOutput) -> None:
        """Adds new tokens to the usage."""
        if place not in self._prompts:
            self._prompts[place] = len(output.prompt_token_ids or ()), output.num_cached_tokens or 0
        for completion in output.outputs:
            self.completion_tokens += len(completion.token_ids)

    def usage(self) -> wire.Usage:
        prompt = sum(tokens for tokens, _ in self._prompts.values())
        cached = sum(cached for _, cached in self._prompts.values())
        details = self.server.config.enable_prompt_tokens_details
        return wire.Usage(
            prompt_tokens=prompt,
            completion_tokens=self.completion_tokens,
            total_tokens=prompt + self.completion_tokens,
            prompt_tokens_details=wire.PromptTokensDetails(cached) if details else UNSET,
        )

    def usage_so_far(self) -> wire.OptionalUsage:
        return self.usage() if self.counts_always else UNSET

    def prompt_text(self, output: RequestOutput) -> str:
        if output.prompt is not None:
            return output.prompt
        return self.server.tokenizer.decode(output.prompt_token_ids or [])

    def finish_reason(self, completion: CompletionOutput) -> Any:
        return finish_reason(self.job, completion)


def finish_reason(job: Job, completion: CompletionOutput) -> Any:
    """Raises InvalidRequest when no token was left to go on with, Refusal (500) when the engine failed."""
    if completion.finish_reason == "error":
        if job.params.allowed_token_ids is not None and job.params.structured_outputs is not None:
            problem = "none of them may come next in the structured output"
            raise InvalidRequest("allowed_token_ids", problem, "leave it out")
        raise Refusal(500, "the engine failed at this request")
    return completion.finish_reason
