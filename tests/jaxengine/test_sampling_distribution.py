"""That the sampler draws from the distribution it should: χ² over thousands of seeds and positions."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from sampler_rig import SLOTS, Rig, full, new_request, plain, rows_of, specified
from scipy import stats

from jaxengine.sampling_params import SamplingParams

V, DRAWS = 8, 4096
LOGITS = np.array([1.5, 0.2, -0.7, 1.1, 0.0, -2.0, 0.9, 2.1], np.float32)
PROMPT, OUTPUTS = [0, 2], [3, 3, 6, 0]

CASES = {
    "plain": {},
    "hot": {"temperature": 2.0},
    "cold": {"temperature": 0.4},
    "top_k": {"top_k": 3},
    "top_p": {"top_p": 0.8},
    "top_k and top_p": {"top_k": 5, "top_p": 0.7, "temperature": 1.5},
    "min_p": {"min_p": 0.2},
    "repetition": {"repetition_penalty": 1.7},
    "frequency": {"frequency_penalty": 0.6},
    "presence": {"presence_penalty": -1.0},
    "bias": {"logit_bias": {5: 3.0, 7: -100.0}},
    "allowed": {"allowed_token_ids": [1, 5]},
    "all": {
        "temperature": 0.8,
        "top_p": 0.9,
        "min_p": 0.05,
        "top_k": 6,
        "presence_penalty": 0.3,
        "logit_bias": {4: 1.0},
        "allowed_token_ids": [0, 1, 3, 4, 6],
    },
}


def check(tokens: np.ndarray, processed: np.ndarray) -> None:
    """The tokens' frequencies against softmax(processed)."""
    weights = np.exp(processed.astype(np.float64) - processed.max())
    expected = weights / weights.sum() * len(tokens)
    observed = np.bincount(tokens, minlength=len(processed))
    assert observed[expected == 0].sum() == 0
    possible = expected > 0
    assert stats.chisquare(observed[possible], expected[possible]).pvalue > 1e-3


@pytest.mark.parametrize("vary", ["seed", "position"])
@pytest.mark.parametrize("name", CASES)
def test_tokens_are_drawn_from_the_processed_distribution(name: str, vary: str) -> None:
    rig = Rig(V)
    request = new_request(SamplingParams(**CASES[name]), PROMPT, OUTPUTS, seed=11)
    rig.admit(request)
    rows = rows_of([request] * DRAWS)
    start = 1000 * len(name)
    rows = dataclasses.replace(rows, **{vary: np.arange(start, start + DRAWS, dtype=np.int32)})
    tokens, _ = full(np.tile(LOGITS, (DRAWS, 1)), rows, rig.state, np.zeros(DRAWS, np.int32))
    check(np.asarray(tokens), specified(LOGITS, request)[0])


def test_a_large_vocabulary_is_drawn_from_evenly() -> None:
    """Both halves of the noise, and no token that cannot be drawn."""
    V = 1001
    rows = rows_of([new_request(SamplingParams(), seed=s) for s in range(8 * V)])
    tokens = np.asarray(plain(np.zeros((8 * V, V), np.float32), rows))
    check(tokens // 91, np.zeros(11))
    assert len(set(tokens.tolist())) > 0.99 * V


def test_rare_tokens_are_drawn_as_rarely_as_they_should() -> None:
    """e^-7 of the mass each; the noise's upper tail decides these."""
    logits = np.full((1, 65), -7.0, np.float32)
    logits[0, 0] = 0.0
    rows = rows_of([new_request(SamplingParams(), seed=s) for s in range(20000)])
    tokens = np.asarray(plain(np.repeat(logits, 20000, axis=0), rows))
    rare = 64 * np.exp(-7) / (1 + 64 * np.exp(-7))
    assert stats.binomtest(int((tokens > 0).sum()), len(tokens), rare).pvalue > 1e-3


def test_neighbouring_seeds_and_positions_draw_independently() -> None:
    seeds, positions = np.divmod(np.arange(64 * 64, dtype=np.int32), 64)
    rows = rows_of([new_request(SamplingParams())] * 64 * 64)
    rows = dataclasses.replace(rows, seed=seeds, position=positions)
    tokens = np.asarray(plain(np.zeros((64 * 64, 4), np.float32), rows)).reshape(64, 64)
    for first, second in ((tokens[:-1], tokens[1:]), (tokens[:, :-1], tokens[:, 1:]), (tokens, tokens.T)):
        if first is tokens:
            first, second = tokens[np.triu_indices(64, 1)], tokens.T[np.triu_indices(64, 1)]
        table = np.zeros((4, 4))
        np.add.at(table, (first.ravel(), second.ravel()), 1)
        assert stats.chi2_contingency(table).pvalue > 1e-3


def test_no_slot_is_needed_without_features() -> None:
    rows = rows_of([new_request(SamplingParams(top_k=1))] * 3)
    tokens, _ = full(np.tile(LOGITS, (3, 1)), rows, Rig(V).state, np.full(3, SLOTS))
    assert tokens.tolist() == [7, 7, 7]
