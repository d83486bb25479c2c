"""Beam search against an exhaustive search over a known distribution."""

import itertools

import pytest
from fake_engine import FakeEngine

from jaxengine.beam_search import BeamSearchSequence, beam_search, score
from jaxengine.llm import LLM
from jaxengine.prompts import Prompt
from jaxengine.request import BeamSearchParams, CompletionOutput, Logprob, RequestOutput

EOS = 0
TABLE = {  # last token → logprobs of the next one
    5: {1: -0.1, 2: -0.4, EOS: -2.0},
    1: {2: -1.0, 3: -1.1, EOS: -3.0},
    2: {3: -0.2, 1: -0.9, EOS: -0.3},
    3: {EOS: -0.1, 1: -2.0, 2: -2.5},
}


def generate(prompts, params):
    """What an engine answers to one-token requests."""
    assert params.max_tokens == 1
    outputs = []
    for prompt in prompts:
        ranked = sorted(TABLE[prompt.token_ids[-1]].items(), key=lambda item: -item[1])[: params.logprobs]
        logprobs = {token: Logprob(value) for token, value in ranked}
        completion = CompletionOutput(0, "", [ranked[0][0]], 0.0, [logprobs], "length")
        outputs.append(RequestOutput("r", None, prompt.token_ids, None, [completion], True))
    return outputs


def run(**params):
    (output,) = beam_search([Prompt([5])], BeamSearchParams(**params), generate, eos_token_ids={EOS}, max_model_len=9)
    return output.sequences


def exhaustive(length, length_penalty):
    """Every sequence of up to `length` tokens that ends with EOS or is that long, best first."""
    found = []
    for size in range(1, length + 1):
        for tokens in itertools.product(range(4), repeat=size):
            path = [5, *tokens]
            if EOS in tokens[:-1] or (size < length and tokens[-1] != EOS):
                continue
            values = [TABLE[a].get(b) for a, b in itertools.pairwise(path)]
            if None not in values:
                found.append(BeamSearchSequence(path, cum_logprob=sum(values)))
    return sorted(found, key=lambda beam: -score(beam, length_penalty, {EOS}))


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("length", [1, 2, 4])
def test_wide_enough_it_is_exhaustive(length, length_penalty):
    best = exhaustive(length, length_penalty)[:5]
    beams = run(beam_width=60, max_tokens=length, length_penalty=length_penalty, include_stop_str_in_output=True)[:5]
    assert [beam.tokens for beam in beams] == [beam.tokens for beam in best]
    assert [beam.cum_logprob for beam in beams] == pytest.approx([beam.cum_logprob for beam in best])


def test_ends():
    beams = run(beam_width=2, max_tokens=4)
    assert len(beams) == 2
    assert all(len(beam.logprobs) == len(beam.tokens) - 1 + (beam.finish_reason == "stop") for beam in beams)
    assert all(EOS not in beam.tokens for beam in beams)
    assert {beam.finish_reason for beam in beams} <= {"stop", "length"}
    assert beams[0].stop_reason == EOS


def test_context_limit():
    params = BeamSearchParams(beam_width=2, max_tokens=50, ignore_eos=True)
    table_without_eos = {EOS: {1: -0.5, 2: -0.6}}
    TABLE.update(table_without_eos)
    (output,) = beam_search([Prompt([5])], params, generate, eos_token_ids={EOS}, max_model_len=6)
    del TABLE[EOS]
    assert [len(beam.tokens) for beam in output.sequences] == [6, 6]
    assert {beam.finish_reason for beam in output.sequences} == {"length"}


def test_through_the_llm():
    engine = FakeEngine()
    params = BeamSearchParams(beam_width=3, max_tokens=4)
    first, second = LLM.from_engine(engine).beam_search([[10], {"prompt_token_ids": [20], "cache_salt": "s"}], params)
    assert first.sequences[0].tokens == [10, 11, 12, 13, 14]  # the likeliest next token is the last one plus one
    assert second.sequences[0].tokens == [20, 21, 22, 23, 24]
    assert first.sequences[0].cum_logprob == -2.0
    assert first.sequences[0].text == engine.tokenizer.decode([10, 11, 12, 13, 14], True)
    assert {seen[4] for seen in engine.seen} == {None, "s"}
    assert len(engine.seen) == 2 * (1 + 3 * 3)
