"""POST /v1/completions: prompts in, texts out, whole or as a stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

from fastapi import APIRouter, Request, Response

from jaxengine.request import CompletionOutput, InvalidRequest, RequestOutput
from serving.bodies import NotServed, read
from serving.generation import Job, outputs
from serving.openai import wire
from serving.openai.answers import Answers, json_response, results
from serving.openai.beams import answer_params, beam_params
from serving.openai.logprobs import completion_logprobs, prompt_logprobs
from serving.openai.prompts import engine_prompt, prompt_list
from serving.openai.sampling import (
    NOT_SERVED,
    Flag,
    Integer,
    SamplingFields,
    check,
    check_sequences,
    doc,
    sampling_params,
)
from serving.openapi import operation
from serving.server import Server
from serving.stream import EventStream, while_connected


class CompletionRequest(SamplingFields, kw_only=True):
    """Texts that continue prompts."""

    prompt: Annotated[
        str | list[str | int | list[int]], doc("A text, token ids, or a list of either: one answer each.")
    ]
    max_tokens: Annotated[Integer, doc("Most tokens to generate; 0 with echo: none.", minimum=0)] = None
    logprobs: Annotated[Integer, doc("Most likely tokens to list at each place.", minimum=-1)] = None
    echo: Annotated[Flag, doc("The text begins with the prompt.")] = None
    add_special_tokens: Annotated[Flag, doc("Such as the beginning of a sequence; true by default.")] = None

    not_served: ClassVar = {**NOT_SERVED, "suffix": NotServed("put everything into the prompt")}


DEFAULT_TOKENS = 16
TYPES = (CompletionRequest, wire.Completion)


def routes(server: Server) -> APIRouter:
    router = APIRouter(tags=["OpenAI"])

    @router.post("/v1/completions", **operation(CompletionRequest, wire.Completion, stream=wire.Completion))
    async def completions(request: Request) -> Response:
        """Continue prompts."""
        server.admission.check()
        body = await read(request, CompletionRequest, server.config.max_body_size)
        answers = CompletionAnswers(server, body, await completion_job(server, request, body))
        if body.stream:
            return EventStream(answers.events(outputs(server, answers.job)))
        async with while_connected(request.receive):
            whole = answers.whole(await results(server, answers.job))
        return json_response(whole)

    return router


async def completion_job(server: Server, request: Request, body: CompletionRequest) -> Job:
    prompts = prompt_list(body.prompt)
    check_sequences(server, len(prompts) * (body.n or 1), "n" if len(prompts) == 1 else "prompt")
    if body.max_tokens == 0 and not body.echo:
        raise InvalidRequest("max_tokens", "no token and no prompt would be shown", "use at least 1, or echo=true")
    check(server, body)
    beams = beam_params(body, body.max_tokens or DEFAULT_TOKENS)
    if beams is not None:
        params = answer_params(body)
    else:
        params = sampling_params(
            server,
            body,
            max_tokens=1 if body.max_tokens == 0 else body.max_tokens,
            logprobs=body.logprobs,
            prompt_logprobs=body.logprobs if body.echo and body.prompt_logprobs is None else body.prompt_logprobs,
        )
    special = body.add_special_tokens is not False
    return Job(
        server.request_id(request, body.request_id, "cmpl"),
        [await engine_prompt(server, prompt, body, params, special=special) for prompt in prompts],
        params,
        priority=server.check_priority(body.priority),
        add_special_tokens=special,
        beams=beams,
        timeout=body.timeout,
    )


class CompletionAnswers(Answers[CompletionRequest]):
    """Outputs as completions and as their chunks. With several prompts and n, choice = prompt × n + sequence."""

    def __init__(self, server: Server, body: CompletionRequest, job: Job) -> None:
        super().__init__(server, body, job)
        self.lengths: dict[int, int] = {}  # choice → characters of the tokens so far

    def whole(self, results: list[RequestOutput]) -> wire.Completion:
        choices = [choice for place, output in enumerate(results) for choice in self._choices(place, output)]
        return self._completion(choices, self.usage())

    def chunks(self, place: int, output: RequestOutput) -> Iterator[wire.Completion]:
        for choice in self._choices(place, output):
            yield self._completion([choice], self.usage_so_far())

    def last_chunk(self) -> wire.Completion:
        return self._completion([], self.usage())

    def _completion(self, choices: list[wire.CompletionChoice], usage: wire.OptionalUsage) -> wire.Completion:
        return wire.Completion(**self.head, choices=choices, usage=usage)

    def _choices(self, place: int, output: RequestOutput) -> Iterator[wire.CompletionChoice]:
        only_prompt = self.body.max_tokens == 0
        if only_prompt:
            for completion in output.outputs:
                completion.text, completion.token_ids, completion.logprobs = "", [], completion.logprobs and []
        self.count(place, output)
        for completion in output.outputs:
            yield self._choice(place * self.job.params.n + completion.index, output, completion)

    def _choice(self, index: int, output: RequestOutput, completion: CompletionOutput) -> wire.CompletionChoice:
        body, text, shown = self.body, completion.text, list(completion.token_ids)
        likely = [*(completion.logprobs or ())]
        choice = wire.CompletionChoice(
            index=index, text=text, finish_reason=self.finish_reason(completion), stop_reason=completion.stop_reason
        )
        offset = self.lengths.get(index)
        if offset is None:  # the choice begins
            offset, prompt_ids = 0, output.prompt_token_ids or []
            if body.echo:
                choice.text = self.prompt_text(output) + text
                shown = [*prompt_ids, *shown]
                likely = [*(output.prompt_logprobs or [None] * len(prompt_ids)), *likely]
            if body.return_token_ids:
                choice.prompt_token_ids = prompt_ids
            if body.return_prompt_text:
                choice.prompt_text = self.prompt_text(output)
            if body.prompt_logprobs is not None and output.prompt_logprobs is not None:
                choice.prompt_logprobs = prompt_logprobs(output.prompt_logprobs)
        if body.logprobs is not None:
            places = zip(shown, likely, strict=True)
            choice.logprobs, offset = completion_logprobs(places, self.speller, offset)
        if body.return_token_ids:
            choice.token_ids = list(completion.token_ids)
        self.lengths[index] = offset
        return choice
