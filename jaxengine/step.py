"""The XLA program: every token of a batch through the model, and one sampled token per row.

`runner.py` compiles `step` once per bucket, in two variants. The plain one knows temperature, top_k, top_p and min_p.
The full one serves everything else that SamplingParams can ask for; a batch takes it as soon as a row needs it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jaxengine import logprobs, sampling
from jaxengine.batch import Batch, Layout, paged_rows, steps_later, unpack, update_page_table
from jaxengine.cache.groups import arrange
from jaxengine.cache.spec import Cache, PagedCacheSpec
from jaxengine.models import Model
from jaxengine.state import DeviceState

PROMPT_CHUNK = 128  # prompt tokens whose logits exist at once when their logprobs are asked for


class Output(NamedTuple):
    """What a program sends to the host. The plain variant has tokens only."""

    tokens: Array  # [steps, S] int32
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
    num_steps: int,
    weights: dict[str, Array],
    state: DeviceState,
    packed: Array,
    masks: Array | None = None,
) -> tuple[DeviceState, Output]:
    """One step, or num_steps plain ones of rows that decode. weights: flat names → arrays; state is donated; packed:
    [layout.size] int32 (see batch.py); masks: [S, W] int32, the full variant's: bits of the tokens that each row's
    grammar allows.
    """
    batch = unpack(packed, layout)
    state = dataclasses.replace(state, page_table=update_page_table(state.page_table, *batch.page_updates))
    if num_steps == 1:
        return _one_step(model, options, layout, full, weights, state, batch, masks)

    def again(index: Array, carry: tuple[tuple[Cache, ...], Array, Array]) -> tuple[tuple[Cache, ...], Array, Array]:
        kv, last_token, tokens = carry
        before = dataclasses.replace(state, kv=kv, last_token=last_token)
        after, output = _one_step(model, options, layout, full, weights, before, steps_later(batch, index))
        return after.kv, after.last_token, lax.dynamic_update_slice(tokens, output.tokens, (index, 0))

    tokens = jnp.zeros((num_steps, layout.bucket.rows), jnp.int32)
    kv, last_token, tokens = lax.fori_loop(0, num_steps, again, (state.kv, state.last_token, tokens))
    return dataclasses.replace(state, kv=kv, last_token=last_token), Output(tokens)


def _one_step(
    model: Model,
    options: StepOptions,
    layout: Layout,
    full: bool,
    weights: dict[str, Array],
    state: DeviceState,
    batch: Batch,
    masks: Array | None = None,
) -> tuple[DeviceState, Output]:
    tokens = jnp.where(batch.tokens < 0, state.last_token[batch.token_slot], batch.tokens)
    rows = paged_rows(batch, state.page_table, layout, _num_pages(model, state))
    decode_only = layout.bucket.decode_only
    every_token = full and not decode_only  # prompt logprobs may be asked of any
    last = None if full or decode_only else batch.last
    hidden, kv = model.forward(weights, state.kv, tokens, batch.positions, rows, last)
    logits = model.logits(weights, hidden[batch.last] if every_token else hidden)  # [S, V] float32
    if full:
        assert masks is not None
        output, sampler = _sample_full(model, options, layout, weights, hidden, logits, state, batch, masks)
    else:
        output, sampler = Output(sampling.sample(logits, batch.sampling)[None]), state.sampler
    owner = jnp.where(batch.sampling.live, batch.slot, layout.scratch_slot)
    last_token = state.last_token.at[owner].set(output.tokens[0])
    return dataclasses.replace(state, kv=kv, last_token=last_token, sampler=sampler), output


def _num_pages(model: Model, state: DeviceState) -> int:
    """N of the pools; 0 where no layer has pages."""
    pools = zip(arrange(model.cache_specs()).arrays, state.kv, strict=True)
    return next((spec.num_pages(pool) for spec, pool in pools if isinstance(spec, PagedCacheSpec)), 0)


def _sample_full(
    model: Model,
    options: StepOptions,
    layout: Layout,
    weights: dict[str, Array],
    hidden: Array,
    logits: Array,
    state: DeviceState,
    batch: Batch,
    masks: Array,
) -> tuple[Output, sampling.SamplerState]:
    k = options.num_logprobs
    tokens, processed = sampling.sample_full(logits, batch.sampling, state.sampler, batch.slot, masks)
    live = batch.sampling.live
    sampler = sampling.remember(state.sampler, batch.slot, tokens, live)
    wanted = (batch.sampling.wants_logprobs & live).any()
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
    return Output(tokens[None], chosen, prompt), sampler
