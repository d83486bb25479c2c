"""A stand-in for the engine around the sampler, and the sampler's specification in numpy; for the tests."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from jaxengine import sampling
from jaxengine.request import Request
from jaxengine.sampling import SamplerState, SamplingRows
from jaxengine.sampling_params import SamplingParams

SLOTS = 6

plain = jax.jit(sampling.sample)
_full = jax.jit(sampling.sample_full)
remember = jax.jit(sampling.remember, donate_argnums=0)
admit = jax.jit(sampling.admit, donate_argnums=0)
create = functools.cache(lambda vocab: SamplerState.create(SLOTS, vocab))


def full(
    logits: np.ndarray, rows: SamplingRows, state: SamplerState, slot: np.ndarray, masks: np.ndarray | None = None
) -> tuple[jax.Array, jax.Array]:
    """Without masks no row has a grammar."""
    S, V = logits.shape
    return _full(logits, rows, state, slot, np.zeros((S, -(-V // 32)), np.int32) if masks is None else masks)


def new_request(
    params: SamplingParams,
    prompt: Sequence[int] = (0,),
    outputs: Sequence[int] = (),
    *,
    slot: int = 0,
    seed: int = 0,
    eos: Sequence[int] = (),
) -> Request:
    request = Request("r", list(prompt), params, seed=seed, eos_token_ids=frozenset(eos))
    request.token_ids += outputs
    request.slot = slot
    return request


def rows_of(requests: Sequence[Request | None]) -> SamplingRows:
    """What the engine packs for a step that samples for these requests; None is a dead row, full of zeros."""
    floats = ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty")
    table = {name: np.zeros(len(requests), np.float32) for name in floats}
    ints = {name: np.zeros(len(requests), np.int32) for name in ("top_k", "position", "num_outputs", "features")}
    seed, live = np.zeros(len(requests), np.uint32), np.zeros(len(requests), bool)
    for row, request in enumerate(requests):
        if request is None:
            continue
        for name in floats:
            table[name][row] = getattr(request.params, name)
        ints["top_k"][row] = request.params.top_k
        ints["position"][row] = len(request.token_ids)
        ints["num_outputs"][row] = request.num_output_tokens
        ints["features"][row] = sampling.features(request.params)
        seed[row], live[row] = request.seed, True
    for short in ("presence", "frequency", "repetition"):
        table[short] = table.pop(f"{short}_penalty")
    return SamplingRows(**table, **ints, seed=seed, live=live, wants_logprobs=np.zeros(len(requests), bool))


@dataclass
class Rig:
    """Holds the state and runs the full program over requests in their slots."""

    vocab: int
    state: SamplerState = field(init=False)

    def __post_init__(self) -> None:
        self.state = jax.tree.map(jnp.copy, create(self.vocab))

    def admit(self, request: Request, bad_words: Sequence[Sequence[int]] = ()) -> None:
        for chunk in sampling.admission_chunks(request, self.vocab, bad_words):
            self.state = admit(self.state, chunk)

    def step(
        self, requests: Sequence[Request | None], logits: np.ndarray, masks: np.ndarray | None = None
    ) -> tuple[list[int], np.ndarray]:
        """Sample, remember, and append the tokens to the requests. ([S] tokens, [S, V] processed logits)"""
        rows = rows_of(requests)
        slot = np.array([SLOTS if r is None else r.slot for r in requests], np.int32)
        tokens, processed = full(logits, rows, self.state, slot, masks)
        self.state = remember(self.state, slot, tokens, rows.live)
        for request, token in zip(requests, tokens.tolist(), strict=True):
            if request is not None:
                request.token_ids.append(token)
        return tokens.tolist(), np.asarray(processed)


def specified(
    logits: np.ndarray,
    request: Request,
    bad_words: Sequence[Sequence[int]] = (),
    grammar: Sequence[int] | None = None,  # the tokens that it allows
) -> tuple[np.ndarray, float]:
    """One row's processed logits, step by step in vLLM's order, and how near the top_p cut was to the deciding sum.

    float32 up to the temperature, so that ties are the same ones; float64 for probabilities.
    """
    params, outputs = request.params, request.output_token_ids
    x = logits.astype(np.float32).copy()
    if params.allowed_token_ids is not None:
        x[np.setdiff1d(np.arange(len(x)), params.allowed_token_ids)] = -np.inf
    if grammar is not None:
        x[np.setdiff1d(np.arange(len(x)), grammar)] = -np.inf
    for word in bad_words:
        before = list(word[:-1])
        if len(before) <= len(outputs) and outputs[len(outputs) - len(before) :] == before:
            x[word[-1]] = -np.inf
    if len(outputs) < params.min_tokens:
        for token in {*request.eos_token_ids, *params.stop_token_ids}:
            x[token] = -np.inf
    for token, bias in (params.logit_bias or {}).items():
        x[token] += np.float32(bias)
    for token in {*request.prompt_token_ids, *outputs}:
        repetition = np.float32(params.repetition_penalty)
        x[token] = x[token] / repetition if x[token] > 0 else x[token] * repetition
    for token in set(outputs):
        x[token] -= np.float32(params.frequency_penalty) * np.float32(outputs.count(token))
        x[token] -= np.float32(params.presence_penalty)
    if params.greedy or not (x > -np.inf).any():
        return x, 1.0
    x /= np.float32(params.temperature)
    wide = x.astype(np.float64)
    keep = wide >= wide.max() + np.log(params.min_p) if params.min_p else np.ones(len(x), bool)
    if 0 < params.top_k < len(x):
        keep &= wide >= np.sort(np.where(keep, wide, -np.inf))[-params.top_k]
    margin = 1.0
    if params.top_p < 1.0:
        probs = np.where(keep, np.exp(wide - wide.max()), 0.0)
        probs /= probs.sum()
        levels = np.unique(wide[keep])[::-1]
        reached = np.cumsum([probs[keep & (wide == level)].sum() for level in levels])
        keep &= wide >= levels[np.argmax(reached >= np.float32(params.top_p))]
        margin = np.abs(reached - np.float32(params.top_p)).min()
    return np.where(keep, x, -np.inf), margin
