"""How tokens are chosen: SamplingParams, the fields, defaults and rules that vLLM users know, and BeamSearchParams.

Made by the caller (offline API, HTTP layer); read by the scheduler (stops), the sampler (everything else) and the
output processor (text). Every rule that needs no model is checked here when the object is made; the rules that need the
model (vocabulary, context) are in `request.validate_request`. `structured_outputs.py` has what the whole output must
look like.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from numbers import Integral, Real
from typing import Any, cast

from jaxengine.invalid_request import InvalidRequest, shown
from jaxengine.structured_outputs import StructuredOutputsParams

logger = logging.getLogger(__name__)

GREEDY_BELOW = 1e-5  # a lower temperature means: take the most likely token
MIN_TEMPERATURE = 0.01  # lower positive temperatures overflow the scaled logits
MAX_N = 16384
MAX_LOGIT_BIAS = 100.0
FLAGS = (
    "ignore_eos",
    "detokenize",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "include_stop_str_in_output",
)
LARGEST = 1e38  # what float32 on the device can hold
LARGEST_INTEGER = 2**63 - 1  # what travels between processes


class RequestOutputKind(IntEnum):
    """What each streamed output carries: everything so far, only what is new, or nothing until the end."""

    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


def _number(field: str, value: object, low: float, high: float, *, open_low: bool = False) -> None:
    """A finite number in [low, high], or (low, high] with open_low."""
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if abs(number) < LARGEST and low <= number <= high and not (open_low and number == low):
            return
    left = "" if low == -math.inf else f" above {low:g}" if open_low else f" of at least {low:g}"
    right = "" if high == math.inf else f" and at most {high:g}"
    raise InvalidRequest(field, f"got {shown(value)}", f"use a finite number{left}{right}")


def _integer(field: str, value: object, low: int, high: int = LARGEST_INTEGER, *, also: str = "") -> None:
    if isinstance(value, Integral) and not isinstance(value, bool) and low <= int(value) <= high:
        return
    too_large = high < LARGEST_INTEGER or (isinstance(value, Integral) and int(value) > high)
    bounds = f"between {low} and {high}" if too_large else f"of at least {low}"
    raise InvalidRequest(field, f"got {shown(value)}", f"use an integer {bounds}{also}")


def _token_ids(field: str, value: object) -> list[int]:
    if isinstance(value, str | bytes | dict) or not hasattr(value, "__iter__"):
        raise InvalidRequest(field, f"got {shown(value)}", "use a list of token ids")
    ids = list(cast(Iterable[object], value))
    for token in ids:
        if not isinstance(token, Integral) or isinstance(token, bool) or not 0 <= int(token) <= LARGEST_INTEGER:
            raise InvalidRequest(field, f"{shown(token)} is not a token id", "use a list of integers of at least 0")
    return [int(cast(int, token)) for token in ids]


def _strings(field: str, value: object) -> list[str]:
    strings = [value] if isinstance(value, str) else value
    if not isinstance(strings, list | tuple):
        raise InvalidRequest(field, f"got {shown(value)}", "use a string or a list of strings")
    for string in strings:
        if not isinstance(string, str) or not string:
            raise InvalidRequest(field, f"{shown(string)} cannot be matched", "use non-empty strings only")
    return list(strings)


@dataclass(slots=True, kw_only=True)
class SamplingParams:
    """How one request is sampled and how its text is made. Names, defaults and meanings are vLLM's.

    Checked and normalised when made: `stop` and the token lists become lists, a temperature below 1e-5 becomes 0.0
    (greedy) and switches top_p, top_k and min_p off, a seed of -1 becomes None. Raises InvalidRequest.
    """

    n: int = 1  # sequences to sample from one prompt; child i of a seeded request uses seed + i
    presence_penalty: float = 0.0  # [-2, 2], over output tokens
    frequency_penalty: float = 0.0  # [-2, 2], over output tokens
    repetition_penalty: float = 1.0  # > 0, over prompt and output tokens; 1 is off
    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0  # (0, 1]
    top_k: int = 0  # 0 or -1: off
    min_p: float = 0.0  # [0, 1], relative to the most likely token
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16  # None: up to the context length
    min_tokens: int = 0  # eos and stop_token_ids cannot be sampled before
    logprobs: int | None = None  # of the k most likely tokens and the sampled one; 0: sampled only; -1: all
    prompt_logprobs: int | None = None  # the same for the prompt, which then skips the prefix cache
    detokenize: bool = True
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE
    logit_bias: dict[int, float] | None = None  # added to the logits, clamped to [-100, 100]
    allowed_token_ids: list[int] | None = None  # only these can be sampled
    bad_words: list[str] | None = None  # strings that must not appear
    extra_args: dict[str, Any] | None = None  # handed through, for plugins
    skip_reading_prefix_cache: bool | None = None  # True: compute the whole prompt, as prompt_logprobs does anyway
    structured_outputs: StructuredOutputsParams | None = None  # what the whole output must look like
    # Known names that this engine does not serve; anything but the default is refused.
    thinking_token_budget: int | None = None
    repetition_detection: Any = None
    logprob_token_ids: list[int] | None = None
    flat_logprobs: bool = False

    def __post_init__(self) -> None:
        for name in ("thinking_token_budget", "repetition_detection", "logprob_token_ids"):
            if getattr(self, name) is not None:
                raise InvalidRequest(name, "not supported", "leave it out")
        if self.flat_logprobs:
            raise InvalidRequest("flat_logprobs", "not supported", "leave it out")
        self._normalise()
        self._check()
        if self.temperature == 0.0:
            self.top_p, self.top_k, self.min_p = 1.0, 0, 0.0
            if self.n > 1:
                raise InvalidRequest(
                    "n", f"{self.n} greedy sequences would be identical", "use n=1 or a temperature above 0"
                )

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def reads_prefix_cache(self) -> bool:
        """Whether the prompt may begin with cached pages. Prompt logprobs exist only where a token is computed."""
        return self.prompt_logprobs is None and not self.skip_reading_prefix_cache

    def clone(self, **changes: Any) -> SamplingParams:
        """A checked copy that shares no mutable field with this one, with some fields changed."""
        return dataclasses.replace(self, **changes)

    def _normalise(self) -> None:
        self.stop = [] if self.stop is None else _strings("stop", self.stop)
        self.bad_words = [] if self.bad_words is None else _strings("bad_words", self.bad_words)
        self.stop_token_ids = [] if self.stop_token_ids is None else _token_ids("stop_token_ids", self.stop_token_ids)
        if self.allowed_token_ids is not None:
            self.allowed_token_ids = _token_ids("allowed_token_ids", self.allowed_token_ids)
        if self.seed == -1:
            self.seed = None
        if self.top_k == -1:
            self.top_k = 0
        for name in ("logprobs", "prompt_logprobs"):
            if isinstance(getattr(self, name), bool):
                setattr(self, name, 1 if getattr(self, name) else None)
        _number("temperature", self.temperature, 0.0, math.inf)
        self.temperature = float(self.temperature)  # an integer may be too large to travel
        if self.temperature < GREEDY_BELOW:
            self.temperature = 0.0
        elif self.temperature < MIN_TEMPERATURE:
            logger.warning("temperature %g overflows the logits; using %g", self.temperature, MIN_TEMPERATURE)
            self.temperature = MIN_TEMPERATURE
        if self.logit_bias is not None:
            self.logit_bias = _clamped_bias(self.logit_bias)
        if self.structured_outputs is not None:
            self.structured_outputs = StructuredOutputsParams.of(self.structured_outputs)
        if self.extra_args is not None:
            if not isinstance(self.extra_args, dict):
                raise InvalidRequest("extra_args", f"got {shown(self.extra_args)}", "use a dictionary")
            self.extra_args = dict(self.extra_args)

    def _check(self) -> None:
        _integer("n", self.n, 1, MAX_N)
        _number("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _number("repetition_penalty", self.repetition_penalty, 0.0, math.inf, open_low=True)
        self.repetition_penalty = float(self.repetition_penalty)
        _number("top_p", self.top_p, 0.0, 1.0, open_low=True)
        _integer("top_k", self.top_k, 0, also=", or -1 for no limit")
        _number("min_p", self.min_p, 0.0, 1.0)
        if self.seed is not None:
            _integer("seed", self.seed, -(2**63), 2**64 - 1, also=", or None")
        if self.max_tokens is not None:
            _integer("max_tokens", self.max_tokens, 1, also=", or None for the rest of the context")
        _integer("min_tokens", self.min_tokens, 0)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidRequest(
                "min_tokens",
                f"{self.min_tokens} is more than max_tokens={self.max_tokens}",
                "lower min_tokens or raise max_tokens",
            )
        for name in ("logprobs", "prompt_logprobs"):
            if getattr(self, name) is not None:
                _integer(name, getattr(self, name), -1, also=" (-1: the whole vocabulary)")
        for name in FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise InvalidRequest(name, f"got {shown(getattr(self, name))}", "use True or False")
        if self.stop and not self.detokenize:
            raise InvalidRequest("stop", "stop strings need text", "set detokenize=True or use stop_token_ids")
        if self.allowed_token_ids is not None and not self.allowed_token_ids:
            raise InvalidRequest("allowed_token_ids", "the list is empty", "name at least one token or leave it out")
        if self.output_kind not in tuple(RequestOutputKind):
            raise InvalidRequest("output_kind", f"got {shown(self.output_kind)}", "use a RequestOutputKind")


def _clamped_bias(bias: object) -> dict[int, float]:
    """Keys may be strings of digits, as JSON objects have them."""
    if not isinstance(bias, dict):
        raise InvalidRequest("logit_bias", f"got {shown(bias)}", "use {token id: bias}")
    clamped: dict[int, float] = {}
    for key, value in bias.items():
        try:
            token = int(key)
        except (TypeError, ValueError):
            token = -1
        if not 0 <= token <= LARGEST_INTEGER or isinstance(key, bool | float):
            raise InvalidRequest("logit_bias", f"{shown(key)} is not a token id", "use {token id: bias}")
        _number("logit_bias", value, -math.inf, math.inf)
        clamped[token] = max(-MAX_LOGIT_BIAS, min(MAX_LOGIT_BIAS, float(value)))
    return clamped


@dataclass(slots=True, kw_only=True)
class BeamSearchParams:
    """Beam search over `beam_width` sequences; built by the front end out of one-token requests."""

    beam_width: int
    max_tokens: int
    ignore_eos: bool = False
    temperature: float = 0.0
    length_penalty: float = 1.0
    include_stop_str_in_output: bool = False

    def __post_init__(self) -> None:
        _integer("beam_width", self.beam_width, 1)
        _integer("max_tokens", self.max_tokens, 1)
        _number("temperature", self.temperature, 0.0, math.inf)
        _number("length_penalty", self.length_penalty, -math.inf, math.inf)
