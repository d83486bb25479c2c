"""Requests in, text out: the core's tokens through the output processor.

`llm.py` and `async_engine.py` call it, from one thread; it calls the core and the output processor.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Sequence

from jax import Array

from jaxengine.core import EngineCore
from jaxengine.outputs import OutputProcessor
from jaxengine.request import InvalidRequest, RequestOutput, SamplingParams, make_requests
from jaxengine.tokenizer import Tokenizer


class Engine:
    """Requests in, outputs out. Not thread-safe: one thread adds, aborts and steps (AsyncEngine does that for many)."""

    def __init__(self, core: EngineCore, tokenizer: Tokenizer | None) -> None:
        self.core, self.tokenizer = core, tokenizer
        self.config, self.model_config, self.memory = core.config, core.model_config, core.memory
        self.runner, self.scheduler, self.startup = core.runner, core.scheduler, core.startup
        self.eos_token_ids, self.sampling_defaults = core.eos_token_ids, core.sampling_defaults
        self.metrics = core.metrics
        self.outputs = OutputProcessor(tokenizer, self.metrics)
        self._seeds = random.Random(core.config.seed)  # of the requests that bring none
        self._sequences: dict[str, list[str]] = {}  # a user's request → its n sequences

    @property
    def max_model_len(self) -> int:
        return self.core.max_model_len

    def validate(self, prompt_token_ids: Sequence[int], params: SamplingParams) -> None:
        """Raises InvalidRequest for what this engine can never serve; costs nobody else anything."""
        if self.tokenizer is None and params.stop:
            raise InvalidRequest(
                "stop", "text needs a tokenizer", "use stop_token_ids, or load without skip_tokenizer_init"
            )
        self.core.validate(prompt_token_ids, params)

    def add(
        self,
        request_id: str,
        prompt_token_ids: list[int],
        params: SamplingParams,
        *,
        prompt: str | None = None,
        priority: int = 0,
        cache_salt: str | None = None,
        arrival_time: float | None = None,
    ) -> None:
        """Queue one request. Raises InvalidRequest and queues nothing when it cannot be served."""
        if request_id in self._sequences:
            raise InvalidRequest("request_id", f"{request_id!r} is already running", "use another id")
        self.validate(prompt_token_ids, params)
        arrival = time.time() if arrival_time is None else arrival_time
        requests = make_requests(
            request_id,
            prompt_token_ids,
            params,
            seed=self._seeds.getrandbits(32),
            arrival_time=arrival,
            priority=priority,
            cache_salt=cache_salt,
        )
        for request in requests:
            if request.request_id in self.scheduler.requests:
                problem = f"a sequence named {request.request_id!r} is already running"
                raise InvalidRequest("request_id", problem, "use another id")
        for request in requests:
            self.core.add(request)
        self.outputs.add(request_id, prompt, prompt_token_ids, params, arrival)
        self._sequences[request_id] = [request.request_id for request in requests]

    def abort(self, request_ids: Iterable[str]) -> list[RequestOutput]:
        """End requests now; their pages are free before the next step. Unknown ids are ignored."""
        aborted = []
        for request_id in request_ids:
            for sequence in self._sequences.pop(request_id, ()):
                self.core.finish(sequence, "abort")
            if (output := self.outputs.abort(request_id)) is not None:
                aborted.append(output)
        return aborted

    def has_unfinished(self) -> bool:
        return self.core.has_unfinished()

    def step(self) -> list[RequestOutput]:
        """Let the core step; return what the callers get for the tokens that came of it, an output a token."""
        results: list[RequestOutput] = []
        for sampled in self.core.step():
            outputs, stopped = self.outputs.process(sampled)
            for request, stop in stopped:
                self.core.finish(request.request_id, "stop", stop)
            results += outputs
        for request, error in self.core.take_refused():
            request_id = request.user_request_id
            if self._sequences.pop(request_id, None):
                self.outputs.drop(request_id)
                results.append(RequestOutput(request_id, None, None, None, [], finished=True, error=error))
        for result in results:
            if result.finished:
                self._sequences.pop(result.request_id, None)
        return results

    def reset_prefix_cache(self, reset_running_requests: bool = False) -> bool:
        """Forget every cached page. False while requests run, unless they may be preempted for it."""
        return self.core.reset_prefix_cache(reset_running_requests)

    def update_weights(self, fresh: Iterable[tuple[str, Array]], *, preempt: bool) -> None:
        """Exchange weights between two steps, see EngineCore.update_weights."""
        self.core.update_weights(fresh, preempt=preempt)

    def close(self) -> None:
        """Give the device's memory back. The engine cannot be used afterwards."""
        self.core.close()
