"""The sampler against its specification, token by token, and its promises about seeds and company."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from sampler_rig import SLOTS, Rig, create, full, new_request, plain, rows_of, specified

from jaxengine.sampling_params import SamplingParams
from jaxengine.structured_outputs import StructuredOutputsParams
from pallas_kernels.gumbel_argmax.reference import gumbel

V = 40
tokens_of = st.lists(st.integers(0, V - 1), max_size=6)


@st.composite
def cases(
    draw: st.DrawFn,
) -> tuple[SamplingParams, list[int], list[int], list[int], list[list[int]], int, list[int] | None]:
    """(params, prompt, outputs, eos, bad words as tokens, seed, tokens that a grammar allows); numbers whose float32
    arithmetic is exact."""
    few = st.lists(st.integers(0, V - 1), min_size=1, max_size=V, unique=True)
    outputs = draw(tokens_of)
    words = draw(st.lists(st.lists(st.integers(0, V - 1), min_size=1, max_size=4), max_size=3))
    if outputs and draw(st.booleans()):
        words.append([*outputs[-draw(st.integers(1, len(outputs))) :], draw(st.integers(0, V - 1))])
    grammar = draw(st.none() | few)
    params = SamplingParams(
        structured_outputs=None if grammar is None else StructuredOutputsParams(regex="made of tokens below"),
        temperature=draw(st.sampled_from([0.0, 0.01, 0.5, 0.7, 1.0, 2.0])),
        top_k=draw(st.sampled_from([0, 0, 1, 3, V, V + 5])),
        top_p=draw(st.sampled_from([1.0, 1.0, 0.93, 0.51, 0.01])),
        min_p=draw(st.sampled_from([0.0, 0.0, 0.03, 1.0])),
        presence_penalty=draw(st.sampled_from([0.0, 0.5, -2.0])),
        frequency_penalty=draw(st.sampled_from([0.0, 0.25, -0.5])),
        repetition_penalty=draw(st.sampled_from([1.0, 1.0, 1.2, 0.5])),
        logit_bias=draw(
            st.none() | st.dictionaries(st.integers(0, V - 1), st.sampled_from([-100.0, -1.5, 3.0, 100.0]))
        ),
        allowed_token_ids=draw(st.none() | few),
        bad_words=["made of tokens below"] if words else None,
        min_tokens=draw(st.sampled_from([0, 0, 2, 5])),
        stop_token_ids=draw(st.lists(st.integers(0, V - 1), max_size=2)),
    )
    return (
        params,
        draw(tokens_of),
        outputs,
        draw(st.lists(st.integers(0, 3), max_size=2)),
        words,
        draw(st.integers(0, 9)),
        grammar,
    )


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(cases(), min_size=3, max_size=3), st.integers(0, 2**31))
def test_every_parameter_as_specified(drawn: list, random: int) -> None:
    logits = (np.random.default_rng(random).integers(-20, 20, (4, V)) / 4).astype(np.float32)
    rig, requests = Rig(V), []
    masks = np.full((4, 64), True)
    for slot, (params, prompt, outputs, eos, words, seed, grammar) in enumerate(drawn):
        requests.append(new_request(params, prompt, outputs, slot=slot, seed=seed, eos=eos))
        rig.admit(requests[-1], words)
        masks[slot] = np.isin(np.arange(64), [] if grammar is None else grammar)
    expected = [specified(logits[i], request, drawn[i][4], drawn[i][6]) for i, request in enumerate(requests)]
    assume(all(margin > 1e-5 for _, margin in expected))
    rows = rows_of(requests)
    noise = np.asarray(gumbel(rows.seed, rows.position.view(np.uint32), V))
    bits = np.packbits(masks, axis=1, bitorder="little").view(np.int32)
    tokens, processed = rig.step([*requests, None], logits, bits)
    for i, (allowed, _) in enumerate(expected):
        np.testing.assert_allclose(processed[i], allowed, rtol=3e-7, atol=3e-7)
        if (allowed > -np.inf).any():
            scores = processed[i] if requests[i].params.greedy else processed[i] + noise[i]
            assert tokens[i] == np.argmax(scores)


def random_rows(count: int) -> list:
    rng = np.random.default_rng(count)
    temperatures = rng.choice([0.0, 0.3, 1.0, 1.7], count)
    return [
        new_request(SamplingParams(temperature=t), [0] * rng.integers(1, 90), seed=int(rng.integers(2**32)))
        for t in temperatures
    ]


def test_plain_and_full_programs_choose_the_same_tokens() -> None:
    requests = random_rows(16)
    logits = np.random.default_rng(0).normal(size=(16, 333)).astype(np.float32)
    rows = rows_of(requests)
    tokens, processed = full(logits, rows, create(333), np.full(16, SLOTS))
    assert tokens.tolist() == plain(logits, rows).tolist()
    assert len(set(tokens.tolist())) > 8
    greedy = rows.temperature == 0
    np.testing.assert_array_equal(np.asarray(processed)[greedy], logits[greedy])


@pytest.mark.parametrize("count", [1, 2, 3, 8, 33])
def test_a_row_gets_the_same_token_in_any_company_and_at_any_place(count: int) -> None:
    logits = np.random.default_rng(1).normal(size=(1, 1001)).astype(np.float32)
    mine = new_request(SamplingParams(temperature=0.9), [0] * 17, seed=2**32 - 5)
    alone = plain(logits, rows_of([mine])).item()
    for place in {0, count // 2, count - 1}:
        others: list = random_rows(count)
        others[place] = mine
        crowd = np.random.default_rng(2).normal(size=(count, 1001)).astype(np.float32)
        crowd[place] = logits[0]
        assert plain(crowd, rows_of(others))[place] == alone
        assert full(crowd, rows_of(others), create(1001), np.full(count, SLOTS))[0][place] == alone


@pytest.mark.parametrize("spec", [PartitionSpec("tp"), PartitionSpec(None, "tp"), PartitionSpec()])
def test_sharding_changes_no_token(spec: PartitionSpec) -> None:
    mesh = jax.make_mesh((4,), ("tp",), axis_types=(AxisType.Auto,))
    logits = np.random.default_rng(3).normal(size=(8, 512)).astype(np.float32)
    rows = rows_of(random_rows(8))
    expected = plain(logits, rows).tolist()
    assert plain(jax.device_put(logits, NamedSharding(mesh, spec)), rows).tolist() == expected


def test_seed_and_position_change_the_token() -> None:
    logits = np.zeros((64, 4096), np.float32)
    params = SamplingParams(temperature=1.0)
    by_seed = plain(logits, rows_of([new_request(params, [0], seed=s) for s in range(64)]))
    by_position = plain(logits, rows_of([new_request(params, [0] * (n + 1)) for n in range(64)]))
    assert len(set(by_seed.tolist())) > 60
    assert len(set(by_position.tolist())) > 60


def test_rows_that_use_no_state_ignore_what_an_earlier_request_left_in_the_slot() -> None:
    rig = Rig(V)
    rig.admit(new_request(SamplingParams(allowed_token_ids=[1], repetition_penalty=5.0), [2], [3], slot=2))
    user = new_request(SamplingParams(temperature=0.0, logit_bias={7: 5.0}), slot=1)
    rig.admit(user)
    passer = new_request(SamplingParams(temperature=0.0), slot=2)
    logits = np.zeros((2, V), np.float32)
    logits[:, [2, 3]] = 1.0
    tokens, processed = rig.step([user, passer], logits)
    assert tokens == [7, 2]
    np.testing.assert_array_equal(processed[1], logits[1])


def test_rows_that_sample_nothing_change_nothing() -> None:
    rig = Rig(V)
    request = new_request(SamplingParams(temperature=0.0, presence_penalty=1.0), slot=SLOTS - 1)
    rig.admit(request)
    before = jax.tree.map(np.asarray, rig.state)
    rows = dataclasses.replace(rows_of([request, request]), live=np.zeros(2, bool))
    tokens, _ = full(np.zeros((2, V), np.float32), rows, rig.state, np.full(2, SLOTS - 1, np.int32))
    rig.step([None, None], np.zeros((2, V), np.float32))
    assert tokens.shape == (2,)
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.asarray, rig.state))


def test_one_token_left() -> None:
    rig, rng = Rig(V), np.random.default_rng(5)
    requests = [
        new_request(SamplingParams(allowed_token_ids=[5, 9], logit_bias={9: -100.0}, top_k=1), slot=0),
        new_request(SamplingParams(allowed_token_ids=[5, 9], bad_words=["x"]), slot=1),
        new_request(SamplingParams(allowed_token_ids=[5, 9], min_tokens=1), eos=[9], slot=2),
        new_request(SamplingParams(top_p=1e-9, temperature=5.0, logit_bias={5: 100.0}), slot=3),
    ]
    for request in requests:
        rig.admit(request, [[9]] if request.params.bad_words else ())
    for _ in range(5):
        assert rig.step(requests[:2], rng.normal(size=(2, V)))[0] == [5, 5]
    assert rig.step(requests[2:], rng.normal(size=(2, V)))[0] == [5, 5]


def test_min_tokens_ends() -> None:
    rig = Rig(V)
    params = SamplingParams(temperature=0.0, min_tokens=2, stop_token_ids=[11], logit_bias={11: 2.0})
    request = new_request(params, eos=[10])
    rig.admit(request)
    logits = np.zeros((1, V), np.float32)
    logits[0, [10, 11, 12]] = 9.0, 8.0, 5.0
    assert [rig.step([request], logits)[0] for _ in range(4)] == [[12], [12], [11], [11]]


def test_bad_words_of_several_tokens_forbid_only_their_last_after_the_others() -> None:
    rig = Rig(V)
    request = new_request(SamplingParams(temperature=0.0, bad_words=["x"]), [4, 5])
    rig.admit(request, [[4, 5, 6], [6, 5], [7]])
    script = [
        ((7, 6), 6),  # 7 never; 4, 5 stand in the prompt, where they do not count
        ((5, 4), 4),  # 6, 5 never
        ((5, 4), 5),
        ((6, 8), 8),  # 4, 5, 6 never
        ((6, 8), 6),
    ]
    for (first, second), token in script:
        logits = np.zeros((1, V), np.float32)
        logits[0, [first, second]] = 2.0, 1.0
        assert rig.step([request], logits)[0] == [token]


def test_a_bad_word_of_the_greatest_length() -> None:
    rig, word = Rig(V), [*range(5, 5 + 31), 3]
    request = new_request(SamplingParams(temperature=0.0, bad_words=["x"]))
    rig.admit(request, [word])
    for token in word[:-1]:
        assert rig.step([request], 1.0 * (np.arange(V) == token)[None].astype(np.float32))[0] == [token]
    assert rig.step([request], 1.0 * (np.arange(V) == 3)[None].astype(np.float32))[0] == [0]


@pytest.mark.parametrize("preempted_at", [None, 3, 11])
def test_penalties_over_many_steps_also_after_a_preemption(preempted_at: int | None) -> None:
    rig, rng = Rig(V), np.random.default_rng(7)
    params = SamplingParams(
        max_tokens=99, presence_penalty=0.5, frequency_penalty=0.25, repetition_penalty=1.5, bad_words=["x"], seed=3
    )
    words = [[1, 2], [3], [30, 31, 32]]
    request, other = new_request(params, [1, 1, 2, 30], slot=0, seed=3), new_request(params, [9], slot=1, seed=4)
    rig.admit(request, words)
    rig.admit(other, words)
    for step in range(20):
        if step == preempted_at:
            usurper = new_request(SamplingParams(presence_penalty=2.0, allowed_token_ids=[0]), [5], slot=0)
            rig.admit(usurper)
            rig.step([usurper], np.zeros((1, V), np.float32))
            request.slot = 4
            rig.admit(request, words)
        logits = rng.normal(size=(2, V)).astype(np.float32) * 0.5
        expected = [specified(logits[i], r, words)[0] for i, r in enumerate((request, other))]
        _, processed = rig.step([request, other], logits)
        np.testing.assert_allclose(processed, expected, rtol=1e-6, atol=1e-6)
    assert max(map(request.output_token_ids.count, range(V))) > 1
