"""Requests: what one model refuses, and how a request for n sequences becomes n of them."""

from typing import Any

import numpy as np
import pytest

from jaxengine.request import CompletionOutput, InvalidRequest, SamplingParams, Status, make_requests, validate_request


def validate(prompt: Any = (1, 2, 3), limits: dict[str, Any] | None = None, **params: Any) -> None:
    validate_request(prompt, SamplingParams(**params), **({"max_model_len": 8, "vocab_size": 100} | (limits or {})))


def test_what_fits_is_accepted() -> None:
    validate()
    validate([0, 99])
    validate(np.array([1, 2], np.int32).tolist())
    validate([np.int32(5)])
    validate(list(range(7)))
    validate(min_tokens=5)
    validate(logprobs=20, prompt_logprobs=20)
    validate(limits={"max_logprobs": -1}, logprobs=-1)
    validate(max_tokens=1000)  # the context ends it


@pytest.mark.parametrize(
    ("prompt", "limits", "params", "field"),
    [
        ([], {}, {}, "prompt_token_ids"),
        (list(range(8)), {}, {}, "prompt_token_ids"),
        ([100], {}, {}, "prompt_token_ids"),
        ([-1], {}, {}, "prompt_token_ids"),
        ([1.0], {}, {}, "prompt_token_ids"),
        ([True], {}, {}, "prompt_token_ids"),
        (["a"], {}, {}, "prompt_token_ids"),
        ([1, "a", None], {}, {}, "prompt_token_ids"),
        ([1], {}, {"stop_token_ids": [100]}, "stop_token_ids"),
        ([1], {}, {"allowed_token_ids": [5, 100]}, "allowed_token_ids"),
        ([1], {}, {"logit_bias": {100: 1.0}}, "logit_bias"),
        ([1], {}, {"logprobs": 21}, "logprobs"),
        ([1], {}, {"logprobs": -1}, "logprobs"),
        ([1], {}, {"prompt_logprobs": 21}, "prompt_logprobs"),
        ([1], {"max_logprobs": -1}, {"logprobs": 101}, "logprobs"),
        ([1, 2, 3], {}, {"min_tokens": 6}, "min_tokens"),
        ([1], {}, {"min_tokens": 1, "allowed_token_ids": [7], "stop_token_ids": [7, 8]}, "allowed_token_ids"),
        ([1], {"eos_token_ids": {7}}, {"min_tokens": 1, "allowed_token_ids": [7]}, "allowed_token_ids"),
    ],
)
def test_refused(prompt: Any, limits: dict[str, Any], params: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        validate(prompt, limits, **params)
    assert refusal.value.field == field
    assert "\n" not in str(refusal.value)


def test_fields_set_later_are_checked_again() -> None:
    params = SamplingParams()
    params.top_p = 5.0
    with pytest.raises(InvalidRequest, match="top_p"):
        validate_request([1], params, max_model_len=8, vocab_size=100)


def test_the_message_says_what_would_work() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        validate(list(range(9)))
    assert str(refusal.value) == (
        "prompt_token_ids: the prompt has 9 tokens and the context length is 8; "
        "send at most 7 tokens, so that one can be generated, or raise max_model_len"
    )


def test_one_sequence() -> None:
    params = SamplingParams(seed=5)
    (request,) = make_requests("a", [1, 2], params, seed=9, priority=3, cache_salt="s")
    assert (request.request_id, request.parent_id, request.index, request.seed) == ("a", None, 0, 5)
    assert (request.priority, request.cache_salt, request.status) == (3, "s", Status.WAITING)
    assert request.params == params
    assert request.params is not params
    request.token_ids.append(7)
    assert request.prompt_token_ids == [1, 2]
    assert (request.num_prompt_tokens, request.num_output_tokens, request.output_token_ids) == (2, 1, [7])
    request.num_in_flight = 1
    assert request.num_tokens == 4


def test_n_sequences_have_their_own_seeds_and_only_the_first_scores_the_prompt() -> None:
    requests = make_requests("a", [1, 2], SamplingParams(n=3, seed=5, prompt_logprobs=2))
    assert [r.request_id for r in requests] == ["0_a", "1_a", "2_a"]
    assert [r.seed for r in requests] == [5, 6, 7]
    assert [r.index for r in requests] == [0, 1, 2]
    assert {r.parent_id for r in requests} == {"a"}
    assert [r.params.prompt_logprobs for r in requests] == [2, None, None]
    assert [r.params.reads_prefix_cache for r in requests] == [False, True, True]
    assert {r.params.n for r in requests} == {1}


@pytest.mark.parametrize("seed", [0, 2**32 - 1, 2**40 + 1, 2**64 - 1, -5, -(2**63)])
def test_seeds_become_32_bits(seed: int) -> None:
    for request in make_requests("a", [1], SamplingParams(n=2, seed=seed)):
        assert 0 <= request.seed < 2**32


def test_a_seed_of_the_engine_is_used_only_without_one() -> None:
    assert make_requests("a", [1], SamplingParams(), seed=9)[0].seed == 9
    assert make_requests("a", [1], SamplingParams(seed=0), seed=9)[0].seed == 0


def test_a_completion_is_finished_with_its_reason() -> None:
    assert not CompletionOutput(0, "", []).finished()
    assert CompletionOutput(0, "", [], finish_reason="stop").finished()
