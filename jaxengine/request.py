"""One request: its host state while it runs (Request), what the caller gets back (RequestOutput), and what is refused.

The engine makes Requests with `make_requests` after `validate_request`; the scheduler alone changes them while they
run; the output processor turns their tokens into RequestOutputs. SamplingParams live in `sampling_params.py`.
"""

from __future__ import annotations

import contextlib
import time
from array import array
from collections.abc import Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import IntEnum
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxengine.sampling_params import (
    BeamSearchParams,
    InvalidRequest,
    RequestOutputKind,
    SamplingParams,
)

if TYPE_CHECKING:
    from jaxengine.grammar import Grammar, Matcher

__all__ = [
    "BeamSearchParams",
    "CompletionOutput",
    "InvalidRequest",
    "Logprob",
    "Request",
    "RequestOutput",
    "RequestOutputKind",
    "SamplingParams",
    "Status",
    "make_requests",
    "validate_request",
]


class Status(IntEnum):
    WAITING = 0  # not started, or preempted: holds no page and no slot
    RUNNING = 1  # holds a slot and pages
    FINISHED = 2
    COMPILING = 3  # not in line yet: its grammar is being compiled


@dataclass(slots=True, eq=False)
class Request:
    """Host state of one sequence; a user's request with n > 1 becomes n of them. Changed by the scheduler only."""

    request_id: str
    prompt_token_ids: list[int]
    params: SamplingParams
    arrival_time: float = field(default_factory=time.time)
    priority: int = 0  # lower runs earlier
    cache_salt: str | None = None  # prompts share cached pages only with equal salt
    lora_name: str | None = None
    eos_token_ids: frozenset[int] = frozenset()
    seed: int = 0  # 32 bits; params.seed, or drawn by the engine
    steps_alone: bool = False  # each of its tokens needs a step of the full program
    grammar: Future[Grammar] | None = None  # what its output must follow
    parent_id: str | None = None  # the user's request id when n > 1
    index: int = 0  # which of the n
    label: str | None = None  # the user's request id, where request_id is a name between processes

    token_ids: list[int] = field(init=False)  # prompt and the output tokens that the host knows
    num_computed_tokens: int = field(default=0, init=False)  # in pages once every dispatched step has run
    num_in_flight: int = field(default=0, init=False)  # sampled by dispatched steps, not yet on the host
    num_cached_tokens: int = field(default=0, init=False)  # found in the prefix cache at first admission
    scheduled_time: float | None = field(default=None, init=False)  # of the first admission, as arrival_time
    pages: list[int] = field(default_factory=list, init=False)  # one a group of layers for each place (kv_groups.py)
    slid: list[int] = field(default_factory=list, init=False)  # per group: places before it have been given back
    covered: int = field(default=0, init=False)  # places up to here have their pages in groups with a window too
    page_hashes: list[bytes] = field(default_factory=list, init=False)  # of the full pages of token_ids, from the first
    register_at: int = field(default=0, init=False)  # length at which its next page goes to the prefix cache
    save_at: list[int] = field(default_factory=list, init=False)  # lengths at which its recurrent state is to be kept
    resumed_from: int | None = field(default=None, init=False)  # the kept state that it went on from
    slot: int = field(default=-1, init=False)
    # Set when it is queued: length at which it ends, tokens that end it, its place in line (lower runs earlier).
    max_length: int = field(default=0, init=False)
    stop_tokens: frozenset[int] = field(default=frozenset(), init=False)
    order: tuple[float, ...] = field(default=(), init=False)
    matcher: Matcher | None = field(default=None, init=False)  # its output's place in the grammar
    status: Status = field(default=Status.WAITING, init=False)
    epoch: int = field(default=0, init=False)  # counts the times its pages were given up: preemptions and the finish
    num_preemptions: int = field(default=0, init=False)
    num_overtaken: int = field(default=0, init=False)  # requests behind it in line that came in before it
    finish_reason: str | None = field(default=None, init=False)  # "stop" "length" "abort" "error"
    stop_reason: int | str | None = field(default=None, init=False)  # the stop token or string that ended it

    def __post_init__(self) -> None:
        self.token_ids = list(self.prompt_token_ids)

    @property
    def user_request_id(self) -> str:
        """Of the user's request that this is one of the n sequences of."""
        return self.label or self.parent_id or self.request_id

    @property
    def num_tokens(self) -> int:
        """Prompt and output tokens, those still on the device included."""
        return len(self.token_ids) + self.num_in_flight

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.prompt_token_ids)

    @property
    def num_output_tokens(self) -> int:
        """Output tokens that the host knows."""
        return len(self.token_ids) - len(self.prompt_token_ids)

    @property
    def output_token_ids(self) -> list[int]:
        return self.token_ids[len(self.prompt_token_ids) :]

    @property
    def is_finished(self) -> bool:
        return self.status is Status.FINISHED


def make_requests(
    request_id: str, prompt_token_ids: Sequence[int], params: SamplingParams, *, seed: int = 0, **fields: Any
) -> list[Request]:
    """The n sequences of one user request. `seed` is used when params has none; `fields` are Request's other fields.

    With n > 1 each has id "{index}_{request_id}", its own seed (seed + index), and only the first one computes the
    prompt's logprobs.
    """
    wide = params.seed if params.seed is not None else seed
    seed = (wide ^ (wide >> 32)) & 0xFFFFFFFF
    if params.n == 1:
        return [Request(request_id, list(prompt_token_ids), params.clone(), seed=seed, **fields)]
    requests = []
    for index in range(params.n):
        changes: dict[str, Any] = {"n": 1}
        if index and params.prompt_logprobs is not None:
            changes["prompt_logprobs"] = None
        requests.append(
            Request(
                f"{index}_{request_id}",
                list(prompt_token_ids),
                params.clone(**changes),
                seed=(seed + index) & 0xFFFFFFFF,
                parent_id=request_id,
                index=index,
                **fields,
            )
        )
    return requests


@dataclass(slots=True)
class Logprob:
    """Log-probability of one token at one place, its rank there (1 is the most likely), and its text."""

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass(slots=True)
class CompletionOutput:
    """One of the n sequences of a RequestOutput."""

    index: int
    text: str
    token_ids: Sequence[int]
    cumulative_logprob: float | None = None
    logprobs: list[dict[int, Logprob]] | None = None  # one per token
    finish_reason: str | None = None  # "stop" "length" "abort" "error"
    stop_reason: int | str | None = None  # the stop token or string; None for end of sequence
    lora_request: Any = None

    def finished(self) -> bool:
        return self.finish_reason is not None


@dataclass(slots=True)
class RequestOutput:
    """What a caller gets for one request, once or while it streams."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int] | None
    prompt_logprobs: list[dict[int, Logprob] | None] | None  # first entry None
    outputs: list[CompletionOutput]
    finished: bool
    metrics: Any = None
    lora_request: Any = None
    num_cached_tokens: int | None = None  # prompt tokens found in the prefix cache
    error: InvalidRequest | None = None  # why it ended with finish_reason "error" before it had begun


def validate_request(
    prompt_token_ids: Sequence[int],
    params: SamplingParams,
    *,
    max_model_len: int,
    vocab_size: int,
    max_logprobs: int = 20,
    eos_token_ids: Collection[int] = (),
) -> None:
    """Raises InvalidRequest for what this model can never serve. max_logprobs -1: no limit."""
    params = params.clone()  # checks again: fields may have been set since it was made
    length = len(prompt_token_ids)
    if length == 0:
        raise InvalidRequest("prompt_token_ids", "the prompt is empty", "send at least one token")
    if length >= max_model_len:
        raise InvalidRequest(
            "prompt_token_ids",
            f"the prompt has {length} tokens and the context length is {max_model_len}",
            f"send at most {max_model_len - 1} tokens, so that one can be generated, or raise max_model_len",
        )
    if params.min_tokens > max_model_len - length:
        raise InvalidRequest(
            "min_tokens",
            f"{params.min_tokens} tokens do not fit after a prompt of {length} in a context of {max_model_len}",
            f"use at most {max_model_len - length}",
        )
    _check_vocabulary("prompt_token_ids", prompt_token_ids, vocab_size)
    _check_vocabulary("stop_token_ids", params.stop_token_ids or (), vocab_size)
    _check_vocabulary("allowed_token_ids", params.allowed_token_ids or (), vocab_size)
    _check_vocabulary("logit_bias", list(params.logit_bias or ()), vocab_size)
    for name in ("logprobs", "prompt_logprobs"):
        asked = getattr(params, name)
        wanted = vocab_size if asked == -1 else asked
        if wanted is not None and (wanted > vocab_size or -1 < max_logprobs < wanted):
            most = vocab_size if max_logprobs == -1 else min(max_logprobs, vocab_size)
            raise InvalidRequest(name, f"{wanted} were asked and {most} are allowed", "ask fewer or raise max_logprobs")
    if params.min_tokens and params.allowed_token_ids:
        stops = set(params.stop_token_ids or ()) | set(eos_token_ids)
        if stops.issuperset(params.allowed_token_ids):
            raise InvalidRequest(
                "allowed_token_ids",
                f"all of them are stop tokens, which min_tokens={params.min_tokens} forbids",
                "allow another token or set min_tokens=0",
            )


def _check_vocabulary(name: str, tokens: Sequence[int], vocab_size: int) -> None:
    if not tokens:
        return
    integers = all(issubclass(kind, Integral) and not issubclass(kind, bool) for kind in set(map(type, tokens)))
    if not integers:
        raise InvalidRequest(name, "not all of them are integers", f"use ids from 0 to {vocab_size - 1}")
    with contextlib.suppress(OverflowError):  # negative, or far too large
        if np.frombuffer(array("I", tokens), np.uint32).max() < vocab_size:  # no loop in Python: prompts are long
            return
    token = next(token for token in tokens if not 0 <= token < vocab_size)
    raise InvalidRequest(name, f"{token} is not in the vocabulary", f"use ids from 0 to {vocab_size - 1}")
