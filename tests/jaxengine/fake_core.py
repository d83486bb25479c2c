"""A core without a model, for tests of the engine's process: it answers with a fixed text."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import tiny_tokenizers

from jaxengine.metrics import Metrics
from jaxengine.plan import Sampled, TokenLogprobs
from jaxengine.request import InvalidRequest, Request, SamplingParams


class FakeCore:
    """`tokens_a_step` tokens a step for every request, at its place in the answer; `gate`: an event each step waits
    for; `repeat`: the answer never ends; `stuck`: no token ever comes."""

    def __init__(
        self, answer: str, *, tokens_a_step: int = 1, seconds_a_step: float = 0.0, stuck: bool = False
    ) -> None:
        tokenizer = tiny_tokenizers.make()
        self.answer = tokenizer.encode(answer, add_special_tokens=False)
        self.tokens_a_step, self.seconds_a_step, self.stuck = tokens_a_step, seconds_a_step, stuck
        self.max_model_len = 512
        self.model_config = SimpleNamespace(vocab_size=tokenizer.vocab_size)
        self.config = SimpleNamespace(max_logprobs=20)
        self.eos_token_ids = frozenset([tokenizer.eos_token_id])
        self.sampling_defaults: dict[str, Any] = {}
        self.memory = SimpleNamespace(table=lambda: "all of it")
        self.startup: dict[str, float] = {}
        self.metrics = Metrics(self.max_model_len)
        self.requests: dict[str, Request] = {}
        self.scheduler = SimpleNamespace(requests=self.requests, max_num_seqs=8, num_running=0, num_waiting=0)
        self.repeat, self.proofs, self.resets = False, 0, []
        self.gate = threading.Event()
        self.gate.set()

    def check(self, params: SamplingParams) -> None:
        if params.logit_bias and len(params.logit_bias) > 8:
            raise InvalidRequest("logit_bias", f"{len(params.logit_bias)} entries are too many", "use fewer")

    def add(self, request: Request) -> None:
        request.scheduled_time = time.time()
        self.requests[request.request_id] = request

    def finish(self, request_id: str, reason: str) -> None:
        self.requests.pop(request_id, None)

    def has_unfinished(self) -> bool:
        return bool(self.requests)

    def take_refused(self) -> list[tuple[Request, InvalidRequest]]:
        return []

    def prove(self) -> None:
        self.proofs += 1

    def reset_prefix_cache(self, running: bool) -> bool:
        self.resets.append(running)
        return True

    def step(self) -> list[list[Sampled]]:
        assert self.gate.wait(10)
        time.sleep(self.seconds_a_step)
        return [] if self.stuck else [self._sampled() for _ in range(self.tokens_a_step)]

    def _sampled(self) -> list[Sampled]:
        sampled = []
        for request in list(self.requests.values()):
            place = request.num_output_tokens
            token = self.answer[place % len(self.answer)]
            request.token_ids.append(token)
            last = place + 1 == len(self.answer) and not self.repeat
            if last:
                del self.requests[request.request_id]
            logprobs = TokenLogprobs(np.array([token, 3]), np.array([-1.0, -2.0]), 1)
            wanted = request.params.logprobs is not None
            sampled.append(Sampled(request, token, "length" if last else None, logprobs=logprobs if wanted else None))
        return sampled

    def close(self) -> None:
        pass
