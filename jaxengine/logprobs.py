"""Log-probabilities, in the step's graph: of sampled tokens (`gather`) and of prompt tokens (`prompt_logprobs`).

Only k + 1 numbers a row leave the device. The k largest are found exactly without sorting the vocabulary: XLA sorts
whole rows for k > 16 on GPUs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array, lax

# What the numbers are read from: before or after the sampler's changes, made to sum to one or as they are.
Mode = Literal["raw_logprobs", "processed_logprobs", "raw_logits", "processed_logits"]

GROUP = 128  # values of a group whose maximum stands for it in the first round of `largest`


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LogprobRows:
    """Column 0 is the token itself, columns 1.. the k largest, falling; the lower token id first among equals."""

    ids: Array  # [S, k + 1] int32
    values: Array  # [S, k + 1] float32
    rank: Array  # [S] int32 of the token: 1 + the number of strictly larger values


def gather(
    logits: Array,  # [S, V] float32 as the model gave them
    processed: Array,  # [S, V] float32 as the sampler chose from them
    tokens: Array,  # [S] int32
    k: int,
    mode: str = "raw_logprobs",
    *,
    any_wanted: Array | bool = True,  # [] bool; False: nothing is computed and the result is zeros
) -> LogprobRows:
    """The logprobs of the tokens and of the k most likely ones. k may be 0, and is cut to V."""
    source = processed if mode.startswith("processed") else logits
    shapes = jax.eval_shape(lambda: _rows(source, tokens, k, mode))
    nothing = lambda: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)  # noqa: E731
    return lax.cond(any_wanted, lambda: _rows(source, tokens, k, mode), nothing)


def prompt_logprobs(
    logits_of: Callable[[Array], Array],  # [chunk, E] → [chunk, V] float32
    hidden: Array,  # [T, E]
    targets: Array,  # [T] int32 the token that follows, -1 where none is asked for
    k: int,
    mode: str = "raw_logprobs",
    *,
    chunk: int = 128,
) -> LogprobRows:
    """[T, k + 1]: the logprobs of each token's successor; rows with target -1 mean nothing.

    Works through chunks of tokens, so that [T, V] never exists; chunks without targets cost nothing. The sampler takes
    no part in a prompt, so that processed modes read the same as raw ones.
    """
    T = hidden.shape[0]
    chunk = min(chunk, T)
    pad = -T % chunk
    hidden = jnp.pad(hidden, ((0, pad), (0, 0))).reshape(-1, chunk, hidden.shape[1])
    targets = jnp.pad(targets, (0, pad), constant_values=-1).reshape(-1, chunk)

    def one(args: tuple[Array, Array]) -> LogprobRows:
        hidden, targets = args
        rows = lambda: _rows(logits_of(hidden), jnp.maximum(targets, 0), k, mode)  # noqa: E731
        shapes = jax.eval_shape(rows)
        nothing = lambda: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)  # noqa: E731
        return lax.cond((targets >= 0).any(), rows, nothing)

    chunks = lax.map(one, (hidden, targets))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:T], chunks)


def largest(x: Array, k: int) -> tuple[Array, Array]:
    """[S, V] → ([S, k], [S, k]) the k largest values in falling order and their places, the first of equals first.

    The k groups with the largest maxima hold k largest values between them: a value outside of them has k maxima
    before it.
    """
    S, V = x.shape
    groups = -(-V // GROUP)
    if groups <= 2 * k:  # little would be left out
        values, places = lax.top_k(x, k)
        return values, places.astype(jnp.int32)
    grouped = jnp.pad(x, ((0, 0), (0, groups * GROUP - V)), constant_values=-jnp.inf).reshape(S, groups, GROUP)
    _, best = lax.top_k(grouped.max(axis=2), k)
    best = jnp.sort(best, axis=1)  # candidates in their original order, for ties
    candidates = jnp.take_along_axis(grouped, best[:, :, None], axis=1).reshape(S, k * GROUP)
    values, inside = lax.top_k(candidates, k)
    group = jnp.take_along_axis(best, inside // GROUP, axis=1)
    return values, (group * GROUP + inside % GROUP).astype(jnp.int32)


def _rows(source: Array, tokens: Array, k: int, mode: str) -> LogprobRows:
    k = min(k, source.shape[1])
    own = jnp.take_along_axis(source, tokens[:, None], axis=1)  # [S, 1]
    values, ids = largest(source, k) if k else (own[:, :0], tokens[:, None][:, :0])
    values = jnp.concatenate([own, values], axis=1)
    rank = 1 + (source > own).sum(axis=1, dtype=jnp.int32)
    if mode.endswith("logprobs"):
        most = source.max(axis=1, keepdims=True)
        values = (values - most) - jnp.log(jnp.exp(source - most).sum(axis=1, keepdims=True))
    return LogprobRows(jnp.concatenate([tokens[:, None], ids], axis=1).astype(jnp.int32), values, rank)
