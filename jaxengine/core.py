"""Sequences in, tokens out: the scheduler and the runner, with one dispatch always in flight.

`engine.py` makes text of the tokens in the same process, `engine_process.py` sends them to others. It calls the
scheduler for plans and the runner for programs, and knows neither text nor callers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jax import Array

from jaxengine.compile import forbid_compile
from jaxengine.config import EngineConfig
from jaxengine.grammar import Grammars
from jaxengine.logprobs import LogprobRows
from jaxengine.memory import MemoryPlan
from jaxengine.metrics import Metrics
from jaxengine.models.config import ModelConfig
from jaxengine.plan import Plan, Sampled, TokenLogprobs
from jaxengine.request import InvalidRequest, Request, SamplingParams, validate_request
from jaxengine.runner import Pending, Runner
from jaxengine.sampling import check_caps, needs_full
from jaxengine.scheduler import Scheduler


class EngineCore:
    """What runs on the device and who runs next. Not thread-safe: one thread adds, finishes and steps."""

    def __init__(
        self,
        config: EngineConfig,
        model_config: ModelConfig,
        runner: Runner,
        scheduler: Scheduler,
        memory: MemoryPlan,
        grammars: Grammars,
        *,
        eos_token_ids: frozenset[int],
        sampling_defaults: dict[str, Any],
        startup: dict[str, float],
    ) -> None:
        self.config, self.model_config, self.memory = config, model_config, memory
        self.runner, self.scheduler, self.grammars = runner, scheduler, grammars
        self.eos_token_ids = eos_token_ids
        self.sampling_defaults = sampling_defaults  # SamplingParams fields from generation_config.json
        self.startup = startup  # seconds by phase
        self.metrics = Metrics(max_model_len=memory.max_model_len)
        self.in_flight: Pending | None = None
        self._prompt_logprobs: dict[str, list[TokenLogprobs]] = {}  # of prompts that are being computed

    @property
    def max_model_len(self) -> int:
        return self.memory.max_model_len

    # -- sequences ----------------------------------------------------------------------------------------------------

    def validate(self, prompt_token_ids: Sequence[int], params: SamplingParams) -> None:
        """Raises InvalidRequest for what this model can never serve; costs nobody else anything."""
        validate_request(
            prompt_token_ids,
            params,
            max_model_len=self.max_model_len,
            vocab_size=self.model_config.vocab_size,
            max_logprobs=self.config.max_logprobs,
            eos_token_ids=self.eos_token_ids,
        )
        self.check(params)

    def check(self, params: SamplingParams) -> None:
        """The part of it that a client with the engine's profile cannot know."""
        if params.bad_words and self.runner.encode is None:
            raise InvalidRequest("bad_words", "text needs a tokenizer", "use logit_bias, or load a tokenizer")
        check_caps(params, self.eos_token_ids, self.runner.bad_words(params))
        if params.structured_outputs is not None:
            self.grammars.check(params.structured_outputs)

    def add(self, request: Request) -> None:
        """Queue one validated sequence. Raises InvalidRequest and queues nothing when it could never run."""
        request.eos_token_ids = self.eos_token_ids
        request.steps_alone = needs_full(request.params)
        if request.params.structured_outputs is not None:
            request.grammar = self.grammars.compile(request.params.structured_outputs)
        self.scheduler.add(request)

    def finish(self, request_id: str, reason: str, stop_reason: int | str | None = None) -> None:
        """End a sequence now; its pages are free before the next step. Unknown ones are ignored."""
        request = self.scheduler.requests.get(request_id)
        if request is not None:
            self.scheduler.finish(request, reason, stop_reason)
            self._prompt_logprobs.pop(request_id, None)
            self._gauge()  # it may have been the last one: then no step follows

    def has_unfinished(self) -> bool:
        return self.scheduler.has_unfinished()

    # -- steps --------------------------------------------------------------------------------------------------------

    def step(self) -> list[list[Sampled]]:
        """Plan and dispatch one step (or several at once); return what each step of the dispatch before it sampled."""
        with contextlib.nullcontext() if self.config.enforce_eager else forbid_compile():
            self.grammars.write_masks()
            plan = self.scheduler.schedule()
            pending = self.runner.dispatch(plan) if plan else None
            done, self.in_flight = self.in_flight, pending
            if not self.config.async_scheduling and pending:
                done, self.in_flight = pending, None
            if not done and not pending:
                self.grammars.rest()
            return self._collect(done) if done else []

    def take_refused(self) -> list[tuple[Request, InvalidRequest]]:
        """The sequences that have ended since the last call because their grammar cannot be compiled, and why."""
        return self.scheduler.take_refused()

    def prove(self) -> None:
        """Run a step that computes nothing and wait for it: the device works. Only while nothing is unfinished."""
        self.runner.dispatch(Plan([], 0, 0, [])).wait()

    def _collect(self, pending: Pending) -> list[list[Sampled]]:
        """Wait for a dispatch's tokens and apply the rules that end a sequence."""
        output, plan = pending.wait(), pending.plan
        if output.prompt_logprobs is not None:
            self._keep_prompt_logprobs(plan, output.prompt_logprobs)
        steps = [self.scheduler.update(plan, tokens, step) for step, tokens in enumerate(output.tokens.tolist())]
        if output.logprobs is not None or self._prompt_logprobs:
            for sampled in steps:
                for token in sampled:
                    self._add_logprobs(token, output.logprobs)
        self._observe(plan)
        return steps

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

    def _gauge(self) -> None:
        self.metrics.num_requests_running.set(self.scheduler.num_running)
        self.metrics.num_requests_waiting.set(self.scheduler.num_waiting)
        self.metrics.kv_cache_usage_perc.set(self.scheduler.pool.usage)

    def _observe(self, plan: Plan) -> None:
        metrics, scheduler, cache = self.metrics, self.scheduler, self.scheduler.prefix_cache
        self._gauge()
        metrics.num_preemptions.value = scheduler.num_preemptions
        metrics.prefix_cache_queries.value, metrics.prefix_cache_hits.value = cache.queries, cache.hits
        metrics.iteration_tokens.observe(plan.num_tokens)
        for row in plan.rows:
            if row.admitted and not row.request.num_preemptions:
                metrics.prompt_tokens.add(row.request.num_prompt_tokens)
                metrics.prompt_tokens_cached.add(row.request.num_cached_tokens)

    # -- the rest -----------------------------------------------------------------------------------------------------

    def reset_prefix_cache(self, reset_running_requests: bool = False) -> bool:
        """Forget every cached page. False while requests run, unless they may be preempted for it."""
        return self.scheduler.reset_prefix_cache(reset_running_requests)

    def update_weights(self, fresh: Iterable[tuple[str, Array]], *, preempt: bool) -> None:
        """Exchange weights between two steps; nothing is compiled. preempt: whether running sequences are computed
        again with the new ones, or go on from the keys and values of the old."""
        self.runner.update_weights(fresh)
        self.scheduler.renew(preempt)

    def close(self) -> None:
        """Give the device's memory back. The engine cannot be used afterwards."""
        self.in_flight = None
        self.grammars.close()
        self.runner.close()


def _row(logprobs: LogprobRows, row: int) -> TokenLogprobs:
    ids, values = np.asarray(logprobs.ids), np.asarray(logprobs.values)  # on the host already
    return TokenLogprobs(ids[row], values[row], int(logprobs.rank[row]))
