"""Sampled tokens to RequestOutputs: text, stop strings, logprobs, the n sequences of one request, and its times.

The engine adds every user request here and hands over what each step Sampled; `process` answers with what the callers
get and with the sequences whose text reached a stop string. It knows no jax.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import cast

from jaxengine.detokenize import Detokenizer
from jaxengine.metrics import Metrics, RequestMetrics
from jaxengine.plan import Sampled, TokenLogprobs
from jaxengine.request import CompletionOutput, Logprob, Request, RequestOutput, RequestOutputKind, SamplingParams
from jaxengine.tokenizer import Tokenizer


@dataclass(slots=True)
class OpenSequence:
    """One of the n sequences while it grows."""

    index: int
    detokenizer: Detokenizer | None
    logprobs: list[dict[int, Logprob]] | None
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    cumulative_logprob: float = 0.0
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    last_token_time: float = 0.0
    sent_tokens: int = 0  # what earlier deltas carried
    sent_text: int = 0
    news: bool = False  # something happened since the last output

    def grow(self, token: int, finish_reason: str | None, stop_reason: int | str | None, shown: bool) -> bool:
        """Take one token; True when the text reached a stop string. `shown` is False for a stop token to be hidden."""
        self.token_ids.append(token)
        self.news = True
        detokenizer = self.detokenizer
        if detokenizer is not None and shown:
            self.text += detokenizer.feed(token)
            if detokenizer.stopped is not None:
                finish_reason, stop_reason = "stop", detokenizer.stopped
        if finish_reason is not None:
            self.finish(finish_reason, stop_reason)
        return detokenizer is not None and detokenizer.stopped is not None

    def finish(self, reason: str, stop_reason: int | str | None = None) -> None:
        self.finish_reason, self.stop_reason, self.news = reason, stop_reason, True
        if self.detokenizer is not None:
            self.text += self.detokenizer.finish()

    def completion(self, delta: bool) -> CompletionOutput:
        first_token = self.sent_tokens if delta else 0
        text = self.text[self.sent_text :] if delta else self.text
        self.sent_tokens, self.sent_text, self.news = len(self.token_ids), len(self.text), False
        return CompletionOutput(
            self.index,
            text,
            self.token_ids[first_token:],
            None if self.logprobs is None else self.cumulative_logprob,
            None if self.logprobs is None else self.logprobs[first_token:],
            self.finish_reason,
            self.stop_reason,
        )


class OpenRequest:
    """One user request until all of its sequences have finished."""

    def __init__(
        self,
        request_id: str,
        prompt: str | None,
        prompt_token_ids: list[int],
        params: SamplingParams,
        arrival_time: float,
        tokenizer: Tokenizer | None,
    ) -> None:
        self.request_id = request_id
        self.prompt = prompt
        self.prompt_token_ids = prompt_token_ids
        self.params = params
        self.tokenizer = tokenizer if params.detokenize else None
        self.kind = params.output_kind
        self.hide_stop_token = not params.include_stop_str_in_output
        self.sequences = [
            OpenSequence(
                index,
                None if self.tokenizer is None else Detokenizer(self.tokenizer, prompt_token_ids, params),
                None if params.logprobs is None else [],
            )
            for index in range(params.n)
        ]
        self.unfinished = params.n
        self.prompt_logprobs: list[dict[int, Logprob] | None] | None = None
        self.num_cached_tokens: int | None = None
        self.metrics = RequestMetrics(arrival_time)

    def output(self) -> RequestOutput:
        """What the caller gets now. A delta names only the sequences that have something new."""
        delta = self.kind is RequestOutputKind.DELTA
        finished = self.unfinished == 0
        completions = [sequence.completion(delta) for sequence in self.sequences if sequence.news or not delta]
        prompt_logprobs = self.prompt_logprobs
        if delta:
            self.prompt_logprobs = None
        return RequestOutput(
            self.request_id,
            self.prompt,
            self.prompt_token_ids,
            prompt_logprobs,
            completions,
            finished,
            metrics=self.metrics,
            num_cached_tokens=self.num_cached_tokens,
        )

    def logprobs(self, row: TokenLogprobs, k: int | None) -> dict[int, Logprob]:
        """One position's logprobs, the token itself first, then the k most likely."""
        wanted = None if k is None or k < 0 else k + 1
        ids, values = row.ids[:wanted].tolist(), row.values[:wanted].tolist()
        text = None if self.tokenizer is None else self.tokenizer.token_text
        result = {ids[0]: Logprob(values[0], int(row.rank), text and text(ids[0]))}
        for rank in range(1, len(ids)):
            token = ids[rank]
            if token not in result:
                result[token] = Logprob(values[rank], rank, text and text(token))
        return result


def joined(outputs: Sequence[RequestOutput]) -> RequestOutput:
    """Deltas of one request, in their order, as one: the first, which grows."""
    whole = outputs[0]
    completions = {completion.index: completion for completion in whole.outputs}
    for output in outputs[1:]:
        for new in output.outputs:
            known = completions.setdefault(new.index, new)
            if known is new:
                continue
            known.text += new.text
            cast(list[int], known.token_ids).extend(new.token_ids)
            known.cumulative_logprob = new.cumulative_logprob
            if known.logprobs is not None:
                known.logprobs += new.logprobs or ()
            known.finish_reason, known.stop_reason = new.finish_reason, new.stop_reason
        whole.prompt_logprobs = whole.prompt_logprobs or output.prompt_logprobs
        whole.finished = output.finished
    whole.outputs = list(completions.values())
    return whole


class OutputProcessor:
    """All open requests. `metrics` receives their times and counts."""

    def __init__(self, tokenizer: Tokenizer | None, metrics: Metrics | None = None) -> None:
        self.tokenizer = tokenizer
        self.metrics = metrics or Metrics()
        self._open: dict[str, OpenRequest] = {}

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._open

    def __len__(self) -> int:
        return len(self._open)

    def add(
        self,
        request_id: str,
        prompt: str | None,
        prompt_token_ids: list[int],
        params: SamplingParams,
        arrival_time: float | None = None,
    ) -> None:
        """Open one user request, whatever its n."""
        arrival = time.time() if arrival_time is None else arrival_time
        self._open[request_id] = OpenRequest(request_id, prompt, prompt_token_ids, params, arrival, self.tokenizer)

    def process(self, sampled: Iterable[Sampled]) -> tuple[list[RequestOutput], list[tuple[Request, str]]]:
        """Outputs for the callers, and the requests that a stop string ended: the scheduler still thinks they run.

        Tokens of unknown and of finished sequences are dropped: a step was in flight when those ended.
        """
        now = time.time()
        changed: dict[str, OpenRequest] = {}
        stopped: list[tuple[Request, str]] = []
        for update in sampled:
            request = update.request
            entry = self._open.get(request.user_request_id)
            if entry is None:
                continue
            sequence = entry.sequences[request.index]
            if sequence.finish_reason is not None:
                continue
            reason = update.finish_reason
            shown = not (reason == "stop" and entry.hide_stop_token) or update.complete
            if sequence.grow(update.token, reason, update.stop_reason, shown) and reason is None:
                assert isinstance(sequence.stop_reason, str)
                stopped.append((request, sequence.stop_reason))
            if update.logprobs is not None and sequence.logprobs is not None:
                sequence.logprobs.append(entry.logprobs(update.logprobs, entry.params.logprobs))
                sequence.cumulative_logprob += float(update.logprobs.values[0])
            if sequence.last_token_time == 0.0:
                self._first_token(entry, update, now)
            elif now != sequence.last_token_time:
                self.metrics.inter_token_latency.observe(now - sequence.last_token_time)
            sequence.last_token_time = now
            entry.metrics.num_generation_tokens += 1
            self.metrics.generation_tokens.value += 1
            if sequence.finish_reason is not None:
                self._finished(entry, sequence.finish_reason, now)
            if entry.kind is not RequestOutputKind.FINAL_ONLY or entry.unfinished == 0:
                changed[entry.request_id] = entry
        return [entry.output() for entry in changed.values()], stopped

    def drop(self, request_id: str) -> None:
        """Forget a request that was refused: it counts nowhere."""
        self._open.pop(request_id, None)

    def abort(self, request_id: str, reason: str = "abort") -> RequestOutput | None:
        """End a request with what it has; None when it is not open."""
        entry = self._open.get(request_id)
        if entry is None:
            return None
        for sequence in entry.sequences:
            if sequence.finish_reason is None:
                sequence.finish(reason)
                self._finished(entry, reason, time.time())
        return entry.output()

    def _first_token(self, entry: OpenRequest, update: Sampled, now: float) -> None:
        if entry.num_cached_tokens is None:
            entry.num_cached_tokens = update.request.num_cached_tokens
            entry.metrics.first_scheduled_time = update.request.scheduled_time
            entry.metrics.first_token_time = now
            self.metrics.time_to_first_token.observe(now - entry.metrics.arrival_time)
        if update.prompt_logprobs is not None and entry.prompt_logprobs is None:
            rows = (entry.logprobs(row, entry.params.prompt_logprobs) for row in update.prompt_logprobs)
            entry.prompt_logprobs = [None, *rows]

    def _finished(self, entry: OpenRequest, reason: str, now: float) -> None:
        """One sequence of the request ended; with the last one the request does."""
        self.metrics.request_success[reason].add()
        entry.unfinished -= 1
        if entry.unfinished:
            return
        del self._open[entry.request_id]
        times = entry.metrics
        times.finished_time = now
        if times.first_token_time is not None:
            times.last_token_time = max(sequence.last_token_time for sequence in entry.sequences)
        self.metrics.observe_finished(
            times,
            prompt_tokens=len(entry.prompt_token_ids),
            cached_tokens=entry.num_cached_tokens or 0,
            longest=max(len(sequence.token_ids) for sequence in entry.sequences),
            n=entry.params.n,
            max_tokens=entry.params.max_tokens,
        )
