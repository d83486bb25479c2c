"""top_experts as a Pallas kernel (Triton lowering): a program chooses one token's experts, one after the other.

Called by the package. A token's logits fit a warp's registers, so that k times the largest of them is a few shuffles.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from pallas_kernels import backend
from pallas_kernels.top_experts.rule import Rule
from pallas_kernels.top_experts.tuning import WARPS


def suits(rule: Rule) -> bool:
    """Whether the kernel knows the rule."""
    return rule.groups == 1 and rule.scoring != "sparsemixer"


def choose(logits: Array, correction: Array | None, rule: Rule) -> tuple[Array, Array]:
    """logits: [T, X], correction: [X]; see the package."""
    T = logits.shape[0]
    optional = () if correction is None else (correction,)
    experts, weights = pl.pallas_call(
        functools.partial(_kernel, rule=rule),
        out_shape=[jax.ShapeDtypeStruct((T, rule.top_k), dtype) for dtype in (jnp.int32, jnp.float32)],
        grid=(T,),
        compiler_params=triton.CompilerParams(num_warps=WARPS, num_stages=1),
        interpret=backend.interpret(),
        name="top_experts",
    )(logits, *optional)
    return experts, weights


def _kernel(logits_ref, *refs, rule: Rule) -> None:  # type: ignore[no-untyped-def]
    *correction_ref, experts_ref, weights_ref = refs
    token, X = pl.program_id(0), logits_ref.shape[1]
    expert = jnp.arange(pl.next_power_of_2(X))
    at = jnp.full(expert.shape, token), jnp.minimum(expert, X - 1)
    logits = jnp.where(expert < X, triton.load(logits_ref.at[at]).astype(jnp.float32), -jnp.inf)
    match rule.scoring:
        case "softmax":
            powers = jnp.exp(logits - logits.max())
            scores = powers / powers.sum()
        case "sigmoid":
            scores = jax.nn.sigmoid(logits)
        case _:
            scores = logits
    ranked = scores + triton.load(correction_ref[0].at[at[1]]) if correction_ref else scores
    left = jnp.where(expert < X, ranked, -jnp.inf)
    place = jnp.arange(pl.next_power_of_2(rule.top_k))
    experts = jnp.full(place.shape, X, jnp.int32)
    weights = jnp.full(place.shape, -jnp.inf if rule.scoring == "top_softmax" else 0.0, jnp.float32)
    for j in range(rule.top_k):
        best = jnp.min(jnp.where(left == left.max(), expert, X))
        experts = jnp.where(place == j, best, experts)
        score = jnp.where(expert == best, scores, 0.0).sum()
        weights = jnp.where(place == j, score, weights)
        left = jnp.where(expert == best, -jnp.inf, left)
    chosen = place < rule.top_k
    if rule.scoring == "top_softmax":
        weights = jnp.exp(weights - weights.max())
        weights = weights / weights.sum()
    elif rule.scoring == "top_sigmoid":
        weights = jnp.where(chosen, jax.nn.sigmoid(weights), 0.0)
    if rule.renormalise:
        weights = weights / (weights.sum() + 1e-20)
    # The interpreter writes old values back to masked places, so those point out of the array.
    out = jnp.where(chosen, token, experts_ref.shape[0]), place
    triton.store(experts_ref.at[out], experts, mask=chosen)
    triton.store(weights_ref.at[out], weights * rule.scale, mask=chosen)
