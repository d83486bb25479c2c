"""Beam search for HTTP requests: the engine's own search, whose steps are one-token requests on the event loop.

`openai/answers.py` comes here for Jobs with `beams`. The search runs in a thread and waits there for each step.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from jaxengine.beam_search import BeamSearchSequence, beam_search
from jaxengine.prompts import Prompt, PromptLike, read_prompts
from jaxengine.request import BeamSearchParams, CompletionOutput, InvalidRequest, RequestOutput, SamplingParams
from serving.errors import ClientLeft
from serving.generation import Job, collect_admitted

if TYPE_CHECKING:
    from serving.server import Server

SEARCHES = 16  # at once; more wait
threads = ThreadPoolExecutor(SEARCHES, "beams")


async def search(server: Server, job: Job, params: BeamSearchParams) -> list[RequestOutput]:
    """Each prompt's beams as the sequences of one output, best first. Raises InvalidRequest."""
    loop, ended = asyncio.get_running_loop(), threading.Event()
    prompts = read_prompts(job.prompts, server.engine.tokenizer, add_special_tokens=job.add_special_tokens)
    for prompt in prompts:
        if not 0 < len(prompt.token_ids) < server.engine.max_model_len:
            most = server.engine.max_model_len - 1
            raise InvalidRequest("prompt", f"it has {len(prompt.token_ids)} tokens", f"send 1 to {most}")

    def one_step(beams: list[Prompt], one_token: SamplingParams) -> list[RequestOutput]:
        if ended.is_set():
            raise ClientLeft
        inputs = [_engine_prompt(beam) for beam in beams]
        step = replace(job, prompts=inputs, params=one_token, beams=None, traced=False)
        return asyncio.run_coroutine_threadsafe(collect_admitted(server, step), loop).result()

    def whole_search() -> list[list[BeamSearchSequence]]:
        ends, most = server.engine.eos_token_ids, server.engine.max_model_len
        found = beam_search(prompts, params, one_step, eos_token_ids=ends, max_model_len=most)
        return [output.sequences for output in found]

    with server.admission.enter(len(prompts) * params.beam_width), ExitStack() as spans:
        traces = [] if server.traces is None else [spans.enter_context(server.traces.request(job)) for _ in prompts]
        try:
            found = await loop.run_in_executor(threads, whole_search)
        finally:
            ended.set()
        outputs = [_output(server, job, prompt, beams) for prompt, beams in zip(prompts, found, strict=True)]
        for trace, output in zip(traces, outputs, strict=False):
            trace.add(output)
    return outputs


def _engine_prompt(beam: Prompt) -> PromptLike:
    if beam.cache_salt is None:
        return beam.token_ids
    return {"prompt_token_ids": beam.token_ids, "cache_salt": beam.cache_salt}


def _output(server: Server, job: Job, prompt: Prompt, beams: list[BeamSearchSequence]) -> RequestOutput:
    return RequestOutput(
        job.request_id,
        prompt.text,
        prompt.token_ids,
        None,
        [_completion(server, job, index, beam, len(prompt.token_ids)) for index, beam in enumerate(beams)],
        finished=True,
    )


def _completion(server: Server, job: Job, index: int, beam: BeamSearchSequence, start: int) -> CompletionOutput:
    tokens, tokenizer = beam.tokens[start:], server.engine.tokenizer
    text = "" if tokenizer is None else tokenizer.decode(tokens, job.params.skip_special_tokens)
    stop = None if beam.stop_reason in server.engine.eos_token_ids else beam.stop_reason
    return CompletionOutput(index, text, tokens, beam.cum_logprob, None, beam.finish_reason, stop)
