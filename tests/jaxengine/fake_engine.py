"""An engine without a model, for tests of what stands in front of it: it answers with a fixed text, token by token."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import numpy as np
import tiny_tokenizers

from jaxengine.metrics import Metrics
from jaxengine.outputs import OutputProcessor
from jaxengine.plan import Sampled, TokenLogprobs
from jaxengine.request import make_requests, validate_request

ANSWER = " fox – é stop the lazy dog."


class FakeEngine:
    """One token a step for every request. `fail_at`: the step that raises; `gate`: an event each step waits for."""

    def __init__(self, answer=ANSWER, *, tokenizer=True, fail_at=None, max_model_len=512):
        backend = tiny_tokenizers.make()
        self.answer = backend.encode(answer, add_special_tokens=False)
        self.tokenizer = backend if tokenizer else None
        self.vocab_size = backend.vocab_size
        self.config = SimpleNamespace(seed=0)
        self.model_config = SimpleNamespace(vocab_size=self.vocab_size)
        self.eos_token_ids = frozenset([backend.eos_token_id])
        self.max_model_len = max_model_len
        self.sampling_defaults = {"temperature": 0.5, "max_tokens": 8}
        self.startup = {"load": 1.0, "compile": 2.0, "total": 4.0}
        self.metrics = Metrics(max_model_len)
        self.outputs = OutputProcessor(self.tokenizer, self.metrics)
        self.running = {}  # request id → its sequences
        self.seen = []  # (request id, prompt tokens, params, priority, cache salt)
        self.steps, self.fail_at = 0, fail_at
        self.gate = threading.Event()
        self.gate.set()
        self.closed = False
        self.threads = set()

    def add(self, request_id, prompt_token_ids, params, *, prompt=None, priority=0, cache_salt=None, arrival_time=None):
        self.threads.add(threading.current_thread().name)
        validate_request(prompt_token_ids, params, max_model_len=self.max_model_len, vocab_size=self.vocab_size)
        self.seen.append((request_id, prompt_token_ids, params, priority, cache_salt))
        requests = make_requests(request_id, prompt_token_ids, params, priority=priority)
        self.outputs.add(request_id, prompt, prompt_token_ids, params, arrival_time or time.time())
        self.running[request_id] = requests

    def abort(self, request_ids):
        return [output for id in list(request_ids) if self.running.pop(id, None) and (output := self.outputs.abort(id))]

    def has_unfinished(self):
        return bool(self.running)

    def step(self):
        self.threads.add(threading.current_thread().name)
        assert self.gate.wait(10)
        self.steps += 1
        if self.steps == self.fail_at:
            raise RuntimeError("the device is gone")
        updates = []
        for requests in self.running.values():
            for request in requests:
                if request.finish_reason is None:
                    updates.append(self._token(request))
        outputs, stopped = self.outputs.process(updates)
        for request, _ in stopped:
            request.finish_reason = "stop"
        for output in outputs:
            if output.finished:
                del self.running[output.request_id]
        return outputs

    def _token(self, request):
        place = request.num_output_tokens
        token = (self.answer[place:] or [self.tokenizer.eos_token_id])[0]
        request.token_ids.append(token)
        reason = "stop" if place >= len(self.answer) else None
        if reason is None and place + 1 == request.params.max_tokens:
            reason = "length"
        request.finish_reason = reason
        update = Sampled(request, token, finish_reason=reason)
        if request.params.logprobs is not None:
            update.logprobs = TokenLogprobs(*self.logprobs(request.token_ids[:-1], token, request.params.logprobs))
        return update

    def logprobs(self, context, token, k):
        """A distribution that depends on the last token only: the best next tokens are last+1, last+2, …"""
        ranked = [(context[-1] + 1 + i) % self.vocab_size for i in range(k)]
        values = [-0.5 * (i + 1) for i in range(k)]
        return np.array([token, *ranked]), np.array([-9.0, *values]), self.vocab_size

    def reset_prefix_cache(self, reset_running_requests=False):
        self.threads.add(threading.current_thread().name)
        return not self.running

    def close(self):
        self.closed = True
