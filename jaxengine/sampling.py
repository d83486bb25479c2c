"""The sampler: one token per row of logits, in vLLM's order. Called inside the step's program (`step.py`).

`sample` serves greedy and plain temperature rows, `sample_full` everything else that SamplingParams can ask for; where
both can serve a row they choose the same token. What rows remember is in `sampler_state.py`, what the host sends in
`admission.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxengine.admission import (
    ALLOWED,
    BANNED,
    EDITED,
    GRAMMAR,
    PENALTIES,
    admission_chunks,
    check_caps,
    empty_admission,
    features,
    needs_full,
    tokenize_bad_words,
)
from jaxengine.sampler_state import SamplerState, admit, remember, state_bytes
from pallas_kernels.gumbel_argmax import gumbel_argmax
from pallas_kernels.top_k import thresholds

__all__ = [
    "SamplerState",
    "SamplingRows",
    "admission_chunks",
    "admit",
    "check_caps",
    "empty_admission",
    "features",
    "needs_full",
    "remember",
    "sample",
    "sample_full",
    "state_bytes",
    "tokenize_bad_words",
]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SamplingRows:
    """How each row is sampled; all [S]. Rows that are not live may hold anything: their token means nothing."""

    temperature: Array  # float32, 0 is greedy
    top_p: Array  # float32 in (0, 1], 1 is off
    min_p: Array  # float32, 0 is off
    presence: Array  # float32 penalties; read only where features has PENALTIES
    frequency: Array
    repetition: Array
    top_k: Array  # int32, 0 is off
    seed: Array  # int32 or uint32
    position: Array  # int32 of the token to be sampled, in the whole text
    num_outputs: Array  # int32 output tokens before it
    features: Array  # int32, admission.features: the parts of its slot's state that the row uses
    wants_logprobs: Array  # bool
    live: Array  # bool, the row samples a token this step


@jax.jit  # traced once for all programs with as many rows
def sample(logits: Array, rows: SamplingRows) -> Array:
    """[S, V] float32 → [S] int32 tokens: temperature → min_p → top_k → top_p → choice."""
    return _draw(logits, rows)[0]


@jax.jit
def sample_full(
    logits: Array,  # [S, V] float32
    rows: SamplingRows,
    state: SamplerState,
    slot: Array,  # [S] int32
    masks: Array,  # [S, W] int32 bits of the tokens that a row's grammar allows; read only where features has GRAMMAR
) -> tuple[Array, Array]:
    """([S] int32 tokens, [S, V] float32 the logits they were chosen from: what `processed` logprobs are made of).

    grammar and allowed_token_ids → bad_words → min_tokens and logit_bias → penalties → temperature → min_p → top_k →
    top_p → choice.
    """
    asked = jnp.where(rows.live, rows.features, 0)

    def choose(logits: Array) -> tuple[Array, Array]:
        tokens, keep = _draw(logits, rows)
        temperature = _temperature(rows)
        scaled = logits / jnp.where(temperature == 0.0, 1.0, temperature)[:, None]
        return tokens, jnp.where(logits >= keep[:, None], scaled, -jnp.inf)

    def edited(logits: Array) -> Array:
        return _edited(logits, asked, rows, state, slot, masks)

    def choose_outside(logits: Array) -> tuple[Array, Array]:
        return choose(lax.cond(any_asks, edited, lambda logits: logits, logits))

    def choose_inside(logits: Array) -> tuple[Array, Array]:
        return lax.cond(any_asks, lambda logits: choose(edited(logits)), choose, logits)

    # A branch that only returns the logits costs a GPU a copy of them. A CPU runs seven times slower inside a branch.
    any_asks = (asked != 0).any()
    return lax.platform_dependent(logits, cpu=choose_outside, default=choose_inside)


def _draw(logits: Array, rows: SamplingRows) -> tuple[Array, Array]:
    """([S] tokens, [S] the smallest logit that could be drawn): the most likely token of greedy rows, a random one of
    the others.
    """
    temperature = _temperature(rows)
    off = temperature == 0.0
    limits = jnp.where(off, 0, rows.top_k), jnp.where(off, 1.0, rows.top_p), jnp.where(off, 0.0, rows.min_p)
    keep = thresholds(logits, temperature, *limits)
    return gumbel_argmax(logits, temperature, keep, rows.seed, rows.position), keep


def _temperature(rows: SamplingRows) -> Array:
    """[S] the temperature of rows that sample, else 0."""
    return jnp.where(rows.live, rows.temperature, 0.0)


def _edited(logits: Array, asked: Array, rows: SamplingRows, state: SamplerState, slot: Array, masks: Array) -> Array:
    """[S, V] the logits, changed as the slots' state says. asked: [S] the parts of it that each row uses."""
    # -inf stays -inf under everything that follows it, so that all additions can be one scatter in front.
    logits = _add_edits(logits, asked, rows, state, slot)
    allowed = _members(state.allowed[slot], state.vocab) | _lacks(asked, ALLOWED)
    allowed &= _members(masks, state.vocab) | _lacks(asked, GRAMMAR)
    return _penalise(jnp.where(allowed, logits, -jnp.inf), asked, rows, state, slot)


def _add_edits(logits: Array, asked: Array, rows: SamplingRows, state: SamplerState, slot: Array) -> Array:
    """bad_words, min_tokens and logit_bias: numbers added to single logits."""
    words, tail = state.bad_words[slot], state.tail[slot]  # [S, BAD_WORDS, BAD_WORD_TOKENS], [S, TAIL]
    before, last = words[..., :-1], words[..., -1]
    said = ((before < 0) | (before == tail[:, None])).all(axis=-1)
    banned = jnp.where(said & (last >= 0) & ~_lacks(asked, BANNED), last, state.vocab)
    active = (rows.num_outputs[:, None] < state.edit_until[slot]) & ~_lacks(asked, EDITED)
    ids = jnp.concatenate([banned, jnp.where(active, state.edit_ids[slot], state.vocab)], axis=1)
    bias = jnp.concatenate([jnp.full(banned.shape, -jnp.inf), state.edit_bias[slot]], axis=1)
    return logits.at[jnp.arange(len(slot))[:, None], ids].add(bias, mode="drop")


def _penalise(logits: Array, asked: Array, rows: SamplingRows, state: SamplerState, slot: Array) -> Array:
    """Repetition over prompt and output tokens; frequency and presence over output tokens."""
    off = _lacks(asked, PENALTIES)
    counts = jnp.where(off, 0, state.counts[slot])
    seen = (_members(state.in_prompt[slot], state.vocab) & ~off) | (counts > 0)
    repetition = rows.repetition[:, None]
    logits = jnp.where(seen, jnp.where(logits > 0, logits / repetition, logits * repetition), logits)
    return logits - rows.frequency[:, None] * counts - rows.presence[:, None] * (counts > 0)


def _lacks(asked: Array, part: int) -> Array:
    """[S, 1] rows that do not use a part of the state."""
    return ((asked & part) == 0)[:, None]


def _members(bits: Array, vocab: int) -> Array:
    """[S, W] int32 → [S, V] bool."""
    spread = (bits[:, :, None] >> jnp.arange(32)) & 1
    return (spread != 0).reshape(bits.shape[0], -1)[:, :vocab]
