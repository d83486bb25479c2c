"""The XLA program: every token of a batch through the model, and one sampled token per row.

`runner.py` compiles `step` once per bucket, in two variants. The plain one knows temperature, top_k, top_p and min_p.
The full one serves everything else that SamplingParams can ask for; a batch takes it as soon as a row needs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxengine import logprobs, sampling
from jaxengine.batch import Batch, Layout, paged_rows, unpack, update_page_table
from jaxengine.models import Model
from jaxengine.state import DeviceState

PROMPT_CHUNK = 128  # prompt tokens whose logits exist at once when their logprobs are asked for


class Output(NamedTuple):
    """What a step sends to the host. The plain variant has tokens only."""

    tokens: Array  # [S] int32
    logprobs: logprobs.LogprobRows | None = None  # of the sampled tokens, [S, k + 1]
    prompt_logprobs: logprobs.LogprobRows | None = None  # of the tokens that follow in the prompt, [T, k + 1]


@dataclass(frozen=True)
class StepOptions:
    """What is fixed for an engine's life: part of every program's identity."""

    num_logprobs: int  # k: most logprobs a request may ask for
    logprobs_mode: str


def step(
    model: Model,
    options: StepOptions,
    layout: Layout,
    full: bool,
    weights: dict[str, Array],
    state: DeviceState,
    packed: Array,
) -> tuple[DeviceState, Output]:
    """One step. weights: flat names → arrays; state is donated; packed: [layout.size] int32 (see batch.py)."""
    batch = unpack(packed, layout)
    page_table = update_page_table(state.page_table, *batch.page_updates)
    tokens = jnp.where(batch.tokens < 0, state.last_token[batch.token_slot], batch.tokens)
    rows = paged_rows(batch, page_table, layout, model.cache_specs()[0].num_pages(state.kv[0]))
    decode_only = layout.bucket.decode_only
    every_token = full and not decode_only  # prompt logprobs may be asked of any
    last = None if full or decode_only else batch.last
    hidden, kv = model.forward(weights, state.kv, tokens, batch.positions, rows, last)
    logits = model.logits(weights, hidden[batch.last] if every_token else hidden)  # [S, V] float32
    if full:
        output, sampler = _sample_full(model, options, layout, weights, hidden, logits, state, batch)
    else:
        output, sampler = Output(sampling.sample(logits, batch.sampling)), state.sampler
    owner = jnp.where(batch.samples, batch.slot, layout.scratch_slot)
    last_token = state.last_token.at[owner].set(output.tokens)
    return DeviceState(kv=kv, page_table=page_table, last_token=last_token, sampler=sampler), output


def _sample_full(
    model: Model,
    options: StepOptions,
    layout: Layout,
    weights: dict[str, Array],
    hidden: Array,
    logits: Array,
    state: DeviceState,
    batch: Batch,
) -> tuple[Output, sampling.SamplerState]:
    k = options.num_logprobs
    tokens, processed = sampling.sample_full(logits, batch.sampling, state.sampler, batch.slot)
    sampler = sampling.remember(state.sampler, batch.slot, tokens, batch.samples)
    wanted = (batch.sampling.wants_logprobs & batch.samples).any()
    chosen = logprobs.gather(logits, processed, tokens, k, options.logprobs_mode, any_wanted=wanted)
    prompt = None
    if not layout.bucket.decode_only:
        prompt = logprobs.prompt_logprobs(
            lambda rows: model.logits(weights, rows),
            hidden,
            batch.targets,
            k,
            options.logprobs_mode,
            chunk=PROMPT_CHUNK,
        )
    return Output(tokens, chosen, prompt), sampler
