"""What the host decides and packs for the sampler's state."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from sampler_rig import SLOTS, Rig, admit, create, new_request, remember

from jaxengine import admission
from jaxengine.admission import admission_chunks, check_caps, features, needs_full, tokenize_bad_words
from jaxengine.request import InvalidRequest
from jaxengine.sampler_state import SamplerState, state_bytes
from jaxengine.sampling_params import SamplingParams

V = 70


@pytest.mark.parametrize(
    ("fields", "used", "full"),
    [
        ({}, 0, False),
        ({"temperature": 0.0, "top_p": 0.5, "top_k": 3}, 0, False),
        ({"stop_token_ids": [3], "seed": 4}, 0, False),
        ({"top_k": 3}, 0, False),
        ({"top_p": 0.5}, 0, False),
        ({"min_p": 0.5}, 0, False),
        ({"logprobs": 0}, 0, True),
        ({"prompt_logprobs": 0}, 0, True),
        ({"presence_penalty": 0.1}, admission.PENALTIES, True),
        ({"frequency_penalty": -0.1}, admission.PENALTIES, True),
        ({"repetition_penalty": 1.1, "temperature": 0.0}, admission.PENALTIES, True),
        ({"allowed_token_ids": [1]}, admission.ALLOWED, True),
        ({"bad_words": ["a"]}, admission.BANNED, True),
        ({"logit_bias": {1: 1.0}}, admission.EDITED, True),
        ({"min_tokens": 1, "bad_words": ["a"]}, admission.EDITED | admission.BANNED, True),
        ({"structured_outputs": {"regex": "a"}}, admission.GRAMMAR, True),
    ],
)
def test_what_a_request_needs(fields: dict[str, Any], used: int, full: bool) -> None:
    params = SamplingParams(**fields)
    assert features(params) == used
    assert needs_full(params) == full
    assert len(admission_chunks(new_request(params), V, [[1]])) == (used not in (0, admission.GRAMMAR))


@pytest.mark.parametrize(
    ("fields", "bad_words", "field"),
    [
        ({"logit_bias": dict.fromkeys(range(1025), 1.0)}, [], "logit_bias"),
        ({"logit_bias": dict.fromkeys(range(1023), 1.0), "min_tokens": 1, "stop_token_ids": [1]}, [], "logit_bias"),
        ({"min_tokens": 1, "stop_token_ids": list(range(1025))}, [], "stop_token_ids"),
        ({"bad_words": ["a"]}, [[1]] * 129, "bad_words"),
        ({"bad_words": ["a"]}, [[1] * 33], "bad_words"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(fields: dict[str, Any], bad_words: list[list[int]], field: str) -> None:
    with pytest.raises(InvalidRequest, match=field) as refused:
        check_caps(SamplingParams(**fields), eos_token_ids=[5000], bad_words=bad_words)
    assert refused.value.field == field


def test_what_just_fits_is_taken() -> None:
    params = SamplingParams(
        logit_bias=dict.fromkeys(range(1022), 1.0), min_tokens=1, stop_token_ids=[1], bad_words=["a"]
    )
    words = [[t % V] * 32 for t in range(128)]
    check_caps(params, [5], words)
    rig = Rig(V)
    rig.admit(new_request(SamplingParams(logit_bias=dict.fromkeys(range(V), 1.0), bad_words=["a"])), words)
    np.testing.assert_array_equal(rig.state.edit_ids[0, :V], np.arange(V))
    np.testing.assert_array_equal(rig.state.bad_words[0], words)


def test_bad_words_are_tokenized_at_a_start_and_after_a_space() -> None:
    ids = {"cat": [3], " cat": [4], "dog": [5], " dog": [1, 5], "x": [6], " x": [6], "": [], " ": []}
    assert tokenize_bad_words(["cat", " dog", "x"], ids.__getitem__) == [[3], [4], [5], [6]]
    with pytest.raises(InvalidRequest, match="bad_words: ' ' makes no token; leave it out"):
        tokenize_bad_words(["cat", " "], ids.__getitem__)


def test_bad_words_must_come_as_tokens() -> None:
    with pytest.raises(ValueError, match="bad_words"):
        admission_chunks(new_request(SamplingParams(bad_words=["a"])), V)


def test_many_distinct_output_tokens_take_several_chunks() -> None:
    vocab = 3000
    outputs = [*range(2500), *range(100), 7]
    request = new_request(SamplingParams(presence_penalty=1.0), [2999], outputs, slot=2)
    chunks = admission_chunks(request, vocab)
    assert len(chunks) == 3
    state = jax.tree.map(np.copy, create(vocab))
    for chunk in chunks:
        state = admit(state, chunk)
    np.testing.assert_array_equal(state.counts[2], np.bincount(outputs, minlength=vocab))
    np.testing.assert_array_equal(state.tail[2], outputs[-31:])
    assert not np.asarray(state.counts)[[0, 1, 3]].any()


def test_an_admission_clears_what_was_in_the_slot() -> None:
    rig = Rig(V)
    everything = SamplingParams(
        presence_penalty=1.0, allowed_token_ids=[1, 69], logit_bias={3: 1.0}, bad_words=["a"], min_tokens=2
    )
    rig.admit(new_request(everything, [1, 68], [4, 5], slot=1, eos=[9]), [[4, 5]])
    rig.admit(new_request(SamplingParams(frequency_penalty=1.0), [2], slot=1))
    fresh = Rig(V)
    fresh.admit(new_request(SamplingParams(frequency_penalty=1.0), [2], slot=1))
    jax.tree.map(np.testing.assert_array_equal, rig.state, fresh.state)


def test_counts_stop_before_they_overflow() -> None:
    rig = Rig(V)
    rig.admit(new_request(SamplingParams(frequency_penalty=1.0), [0], [3] * 40000))
    assert rig.state.counts[0, 3] == 32767
    state = remember(rig.state, np.zeros(1, np.int32), np.full(1, 3, np.int32), np.ones(1, bool))
    assert state.counts[0, 3] == 32767


def test_an_empty_admission_touches_only_the_scratch_slot() -> None:
    rig = Rig(V)
    before = jax.tree.map(np.asarray, rig.state)
    (chunk,) = admission.empty_admission(SLOTS, V)
    after = jax.tree.map(np.asarray, admit(rig.state, chunk))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[:-1], b[:-1]), before, after)


def test_state_is_as_large_as_announced_and_small_enough() -> None:
    state = jax.eval_shape(lambda: SamplerState.create(3, V))
    assert state_bytes(3, V) == sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    assert state_bytes(1024, 128256) < 400e6
    assert state_bytes(1024, 151936) < 400e6


@pytest.mark.parametrize("program", ["admit", "remember"])
def test_updates_happen_in_place(program: str) -> None:
    slots, vocab = 64, 1000
    state = jax.eval_shape(lambda: SamplerState.create(slots, vocab))
    if program == "admit":
        args: tuple = (jax.ShapeDtypeStruct((admission.AdmissionLayout(vocab).size,), np.int32),)
    else:
        args = tuple(jax.ShapeDtypeStruct((8,), t) for t in (np.int32, np.int32, np.bool_))
    memory = {"admit": admit, "remember": remember}[program].lower(state, *args).compile().memory_analysis()
    assert memory.alias_size_in_bytes == state_bytes(slots, vocab)
    assert memory.temp_size_in_bytes < 2 * state_bytes(0, vocab)  # a slot or two, not the state
