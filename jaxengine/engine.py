"""Turns requests into tokens. One step is always in flight: step n+1 is planned while the device runs step n.

`llm.py` and `async_engine.py` call it, from one thread; it calls the scheduler, the runner and the output processor.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxengine.compile import forbid_compile
from jaxengine.config import EngineConfig
from jaxengine.logprobs import LogprobRows
from jaxengine.memory import MemoryPlan
from jaxengine.metrics import Metrics
from jaxengine.models.config import ModelConfig
from jaxengine.outputs import OutputProcessor
from jaxengine.plan import Plan, Sampled, TokenLogprobs
from jaxengine.request import InvalidRequest, RequestOutput, SamplingParams, make_requests, validate_request
from jaxengine.runner import Pending, Runner
from jaxengine.sampling import check_caps, needs_full
from jaxengine.scheduler import Scheduler
from jaxengine.tokenizer import Tokenizer


class Engine:
    """Requests in, tokens out. Not thread-safe: one thread adds, aborts and steps (AsyncEngine does that for many)."""

    def __init__(
        self,
        config: EngineConfig,
        model_config: ModelConfig,
        runner: Runner,
        scheduler: Scheduler,
        tokenizer: Tokenizer | None,
        memory: MemoryPlan,
        *,
        eos_token_ids: frozenset[int],
        sampling_defaults: dict[str, Any],
        startup: dict[str, float],
    ) -> None:
        self.config, self.model_config, self.memory = config, model_config, memory
        self.runner, self.scheduler, self.tokenizer = runner, scheduler, tokenizer
        self.eos_token_ids = eos_token_ids
        self.sampling_defaults = sampling_defaults  # SamplingParams fields from generation_config.json
        self.startup = startup  # seconds by phase
        self.metrics = Metrics(max_model_len=memory.max_model_len)
        self.outputs = OutputProcessor(tokenizer, self.metrics)
        self.in_flight: Pending | None = None
        self._seeds = random.Random(config.seed)  # of the requests that bring none
        self._sequences: dict[str, list[str]] = {}  # a user's request → its n sequences
        self._prompt_logprobs: dict[str, list[TokenLogprobs]] = {}  # of prompts that are being computed

    @property
    def max_model_len(self) -> int:
        return self.memory.max_model_len

    # -- requests -----------------------------------------------------------------------------------------------------

    def validate(self, prompt_token_ids: Sequence[int], params: SamplingParams) -> None:
        """Raises InvalidRequest for what this engine can never serve; costs nobody else anything."""
        validate_request(
            prompt_token_ids,
            params,
            max_model_len=self.max_model_len,
            vocab_size=self.model_config.vocab_size,
            max_logprobs=self.config.max_logprobs,
            eos_token_ids=self.eos_token_ids,
        )
        if self.tokenizer is None:
            for name, instead in (("stop", "stop_token_ids"), ("bad_words", "logit_bias")):
                if getattr(params, name):
                    raise InvalidRequest(
                        name, "text needs a tokenizer", f"use {instead}, or load without skip_tokenizer_init"
                    )
        check_caps(params, self.eos_token_ids, self.runner.bad_words(params))

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
            eos_token_ids=self.eos_token_ids,
            steps_alone=needs_full(params),
        )
        for request in requests:
            if request.request_id in self.scheduler.requests:
                problem = f"a sequence named {request.request_id!r} is already running"
                raise InvalidRequest("request_id", problem, "use another id")
        for request in requests:
            self.scheduler.add(request)
        self.outputs.add(request_id, prompt, prompt_token_ids, params, arrival)
        self._sequences[request_id] = [request.request_id for request in requests]

    def abort(self, request_ids: Iterable[str]) -> list[RequestOutput]:
        """End requests now; their pages are free before the next step. Unknown ids are ignored."""
        aborted = []
        for request_id in request_ids:
            for sequence in self._sequences.pop(request_id, ()):
                self.scheduler.abort(sequence)
                self._prompt_logprobs.pop(sequence, None)
            if (output := self.outputs.abort(request_id)) is not None:
                aborted.append(output)
        return aborted

    def has_unfinished(self) -> bool:
        return self.scheduler.has_unfinished()

    # -- steps --------------------------------------------------------------------------------------------------------

    def step(self) -> list[RequestOutput]:
        """Plan and dispatch one step (or several at once); return what the dispatch before it produced."""
        with contextlib.nullcontext() if self.config.enforce_eager else forbid_compile():
            plan = self.scheduler.schedule()
            if plan:
                self.outputs.scheduled(row.request for row in plan.rows if row.admitted)
            pending = self.runner.dispatch(plan) if plan else None
            done, self.in_flight = self.in_flight, pending
            if not self.config.async_scheduling and pending:
                done, self.in_flight = pending, None
            return self._collect(done) if done else []

    def _collect(self, pending: Pending) -> list[RequestOutput]:
        """Wait for a dispatch's tokens; apply the stop rules; make what the callers get, an output a token."""
        output, plan = pending.wait(), pending.plan
        if output.prompt_logprobs is not None:
            self._keep_prompt_logprobs(plan, output.prompt_logprobs)
        results: list[RequestOutput] = []
        for step, tokens in enumerate(output.tokens.tolist()):
            sampled = self.scheduler.update(plan, tokens, step)
            if output.logprobs is not None or self._prompt_logprobs:
                for token in sampled:
                    self._add_logprobs(token, output.logprobs)
            outputs, stopped = self.outputs.process(sampled)
            for request, stop in stopped:
                self.scheduler.finish(request, "stop", stop)
            results += outputs
        for result in results:
            if result.finished:
                self._sequences.pop(result.request_id, None)
        self._observe(plan)
        return results

    def _add_logprobs(self, result: Sampled, logprobs: LogprobRows | None) -> None:
        request = result.request
        if logprobs is not None and request.params.logprobs is not None:
            result.logprobs = _row(logprobs, result.row)
        if request.params.prompt_logprobs is not None:
            result.prompt_logprobs = self._prompt_logprobs.pop(request.request_id, None)

    def _keep_prompt_logprobs(self, plan: Plan, logprobs: LogprobRows) -> None:
        """Collect the prompt's logprobs chunk by chunk; a preempted request begins again."""
        end = 0
        for row in plan.rows:
            first, end = end, end + row.num_tokens
            request = row.request
            wanted = min(row.num_tokens, request.num_prompt_tokens - 1 - row.start)
            if request.params.prompt_logprobs is None or wanted < 0 or request.num_output_tokens:
                continue
            kept = self._prompt_logprobs.setdefault(request.request_id, [])
            del kept[row.start :]
            kept.extend(_row(logprobs, first + i) for i in range(wanted))

    def _observe(self, plan: Plan) -> None:
        metrics, scheduler, cache = self.metrics, self.scheduler, self.scheduler.prefix_cache
        metrics.num_requests_running.set(scheduler.num_running)
        metrics.num_requests_waiting.set(scheduler.num_waiting)
        metrics.kv_cache_usage_perc.set(scheduler.pool.usage)
        metrics.num_preemptions.value = scheduler.num_preemptions
        metrics.prefix_cache_queries.value, metrics.prefix_cache_hits.value = cache.queries, cache.hits
        metrics.iteration_tokens.observe(plan.num_tokens)
        admitted = [row.request for row in plan.rows if row.admitted]
        for request in admitted:
            if not request.num_preemptions:
                metrics.prompt_tokens.add(request.num_prompt_tokens)
                metrics.prompt_tokens_cached.add(request.num_cached_tokens)

    # -- the rest -----------------------------------------------------------------------------------------------------

    def reset_prefix_cache(self, reset_running_requests: bool = False) -> bool:
        """Forget every cached page. False while requests run, unless they may be preempted for it."""
        return self.scheduler.reset_prefix_cache(reset_running_requests)

    def close(self) -> None:
        """Give the device's memory back. The engine cannot be used afterwards."""
        self.in_flight = None
        self.runner.close()


def _row(logprobs: LogprobRows, row: int) -> TokenLogprobs:
    ids, values = np.asarray(logprobs.ids), np.asarray(logprobs.values)  # on the host already
    return TokenLogprobs(ids[row], values[row], int(logprobs.rank[row]))
