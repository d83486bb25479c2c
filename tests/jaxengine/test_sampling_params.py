"""SamplingParams: vLLM's defaults, meanings and refusals; every refusal names its field on one line."""

import dataclasses
import logging
import math
from typing import Any

import msgspec
import numpy as np
import pytest

from jaxengine.request import BeamSearchParams, InvalidRequest, RequestOutputKind, SamplingParams


def test_defaults() -> None:
    params = SamplingParams()
    assert dataclasses.asdict(params) == {
        "n": 1,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "seed": None,
        "stop": [],
        "stop_token_ids": [],
        "ignore_eos": False,
        "max_tokens": 16,
        "min_tokens": 0,
        "logprobs": None,
        "prompt_logprobs": None,
        "detokenize": True,
        "skip_special_tokens": True,
        "spaces_between_special_tokens": True,
        "include_stop_str_in_output": False,
        "output_kind": RequestOutputKind.CUMULATIVE,
        "logit_bias": None,
        "allowed_token_ids": None,
        "bad_words": [],
        "extra_args": None,
        "skip_reading_prefix_cache": None,
        "structured_outputs": None,
        "thinking_token_budget": None,
        "repetition_detection": None,
        "logprob_token_ids": None,
        "flat_logprobs": False,
    }


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        ({"stop": "x"}, "stop", ["x"]),
        ({"stop": ("x", "y")}, "stop", ["x", "y"]),
        ({"seed": -1}, "seed", None),
        ({"seed": 0}, "seed", 0),
        ({"top_k": -1}, "top_k", 0),
        ({"top_k": np.int64(5)}, "top_k", 5),
        ({"temperature": np.float32(0.5)}, "temperature", 0.5),
        ({"temperature": 1e-6}, "temperature", 0.0),
        ({"temperature": 0.0, "top_p": 0.5}, "top_p", 1.0),
        ({"temperature": 0.0, "top_k": 5}, "top_k", 0),
        ({"temperature": 0.0, "min_p": 0.5}, "min_p", 0.0),
        ({"logprobs": True}, "logprobs", 1),
        ({"logprobs": False}, "logprobs", None),
        ({"logprobs": 0}, "logprobs", 0),
        ({"logprobs": -1}, "logprobs", -1),
        ({}, "reads_prefix_cache", True),
        ({"prompt_logprobs": 0}, "reads_prefix_cache", False),
        ({"prompt_logprobs": 0, "skip_reading_prefix_cache": False}, "reads_prefix_cache", False),
        ({"skip_reading_prefix_cache": True}, "reads_prefix_cache", False),
        ({"logit_bias": {"7": 200, 8: -200.5}}, "logit_bias", {7: 100.0, 8: -100.0}),
        ({"stop_token_ids": (1, np.int32(2))}, "stop_token_ids", [1, 2]),
        ({"max_tokens": None, "min_tokens": 10**6}, "min_tokens", 10**6),
    ],
)
def test_normalised(given: dict[str, Any], name: str, value: object) -> None:
    assert getattr(SamplingParams(**given), name) == value


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"n": 0}, "n"),
        ({"n": 16385}, "n"),
        ({"n": 1.0}, "n"),
        ({"n": True}, "n"),
        ({"n": 2, "temperature": 0.0}, "n"),
        ({"presence_penalty": 2.1}, "presence_penalty"),
        ({"frequency_penalty": -2.1}, "frequency_penalty"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"repetition_penalty": math.inf}, "repetition_penalty"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"temperature": 10**400}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": None}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.01}, "top_p"),
        ({"top_p": math.nan}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
        ({"min_p": 1.1}, "min_p"),
        ({"seed": 1.5}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"max_tokens": 2**63}, "max_tokens"),
        ({"top_k": 2**63}, "top_k"),
        ({"stop_token_ids": [2**63]}, "stop_token_ids"),
        ({"logit_bias": {2**63: 1.0}}, "logit_bias"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", ""]}, "stop"),
        ({"stop": ["a", 1]}, "stop"),
        ({"stop": 1}, "stop"),
        ({"stop": "a", "detokenize": False}, "stop"),
        ({"bad_words": [""]}, "bad_words"),
        ({"stop_token_ids": ["a"]}, "stop_token_ids"),
        ({"stop_token_ids": [-1]}, "stop_token_ids"),
        ({"stop_token_ids": [True]}, "stop_token_ids"),
        ({"stop_token_ids": "12"}, "stop_token_ids"),
        ({"stop_token_ids": 3}, "stop_token_ids"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"min_tokens": 17}, "min_tokens"),
        ({"logprobs": -2}, "logprobs"),
        ({"prompt_logprobs": 1.5}, "prompt_logprobs"),
        ({"logit_bias": {"a": 1.0}}, "logit_bias"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias"),
        ({"logit_bias": {1: math.nan}}, "logit_bias"),
        ({"logit_bias": {1: "b"}}, "logit_bias"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"allowed_token_ids": []}, "allowed_token_ids"),
        ({"output_kind": 3}, "output_kind"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs.json"),
        ({"structured_outputs": "json"}, "structured_outputs"),
        ({"thinking_token_budget": 5}, "thinking_token_budget"),
        ({"repetition_detection": {}}, "repetition_detection"),
        ({"logprob_token_ids": [1]}, "logprob_token_ids"),
        ({"flat_logprobs": True}, "flat_logprobs"),
        ({"ignore_eos": "yes"}, "ignore_eos"),
        ({"detokenize": None}, "detokenize"),
        ({"extra_args": 5}, "extra_args"),
    ],
)
def test_refused(given: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        SamplingParams(**given)
    error = refusal.value
    assert error.field == field
    assert str(error) == f"{field}: {error.problem}; {error.remedy}"
    assert "\n" not in str(error)
    assert len(str(error)) < 200


def test_a_low_temperature_is_raised_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        params = SamplingParams(temperature=0.001)
        params.clone()
    assert params.temperature == 0.01
    assert not params.greedy
    assert len(caplog.records) == 1
    assert SamplingParams(temperature=0.0).greedy


def test_a_clone_is_checked_and_shares_nothing() -> None:
    params = SamplingParams(stop=["a"], logit_bias={1: 1.0}, extra_args={"a": 1}, allowed_token_ids=[1], top_k=3)
    clone = params.clone(max_tokens=5)
    assert clone == dataclasses.replace(params, max_tokens=5)
    for name in ("stop", "stop_token_ids", "bad_words", "logit_bias", "extra_args", "allowed_token_ids"):
        assert getattr(clone, name) == getattr(params, name)
        assert getattr(clone, name) is not getattr(params, name)
    with pytest.raises(InvalidRequest, match="max_tokens"):
        params.clone(max_tokens=-1)


def test_a_clone_reads_the_prefix_cache_by_its_own_fields() -> None:
    plain, scored = SamplingParams(), SamplingParams(prompt_logprobs=2)
    assert not plain.clone(prompt_logprobs=0).reads_prefix_cache
    assert scored.clone(prompt_logprobs=None).reads_prefix_cache
    assert not SamplingParams(skip_reading_prefix_cache=True).clone(prompt_logprobs=None).reads_prefix_cache
    plain.prompt_logprobs = 1
    assert not plain.reads_prefix_cache


def test_beam_search() -> None:
    params = BeamSearchParams(beam_width=4, max_tokens=8)
    assert (params.ignore_eos, params.temperature, params.length_penalty) == (False, 0.0, 1.0)
    for wrong in ({"beam_width": 0}, {"max_tokens": 0}, {"temperature": -1.0}):
        with pytest.raises(InvalidRequest, match=next(iter(wrong))):
            BeamSearchParams(**({"beam_width": 4, "max_tokens": 8} | wrong))


def test_large_numbers_travel():
    """msgpack has no integers of more than 64 bits."""
    params = SamplingParams(temperature=2**70, repetition_penalty=2**70, max_tokens=2**63 - 1)
    decoded = msgspec.msgpack.decode(msgspec.msgpack.encode(params), type=SamplingParams)
    assert (decoded.temperature, decoded.repetition_penalty, decoded.max_tokens) == (2.0**70, 2.0**70, 2**63 - 1)
