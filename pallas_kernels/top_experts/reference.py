"""The specification in plain jnp. Called by the package."""

import jax
import jax.numpy as jnp
from jax import Array, lax

from pallas_kernels.top_experts.rule import Rule


def choose(logits: Array, correction: Array | None, rule: Rule) -> tuple[Array, Array]:
    """logits: [T, X], correction: [X]; see the package."""
    logits = logits.astype(jnp.float32)
    match rule.scoring:
        case "sparsemixer":
            experts, weights = _sparsemixer(logits, rule)
        case "top_softmax" | "top_sigmoid":
            best, experts = lax.top_k(logits, rule.top_k)
            weights = jax.nn.softmax(best) if rule.scoring == "top_softmax" else jax.nn.sigmoid(best)
        case _:
            scores = jax.nn.softmax(logits) if rule.scoring == "softmax" else jax.nn.sigmoid(logits)
            ranked = scores if correction is None else scores + correction
            _, experts = lax.top_k(_in_best_groups(ranked, rule), rule.top_k)
            weights = jnp.take_along_axis(scores, experts, axis=1)
    if rule.renormalise:
        weights = weights / (weights.sum(axis=1, keepdims=True) + 1e-20)
    return experts, weights * rule.scale


def _in_best_groups(scores: Array, rule: Rule) -> Array:
    """[T, X] with -inf outside of the best groups."""
    if rule.groups == 1:
        return scores
    T = scores.shape[0]
    by_group = scores.reshape(T, rule.groups, -1)
    best, _ = lax.top_k(by_group, 2 if rule.scoring == "sigmoid" else 1)
    _, chosen = lax.top_k(best.sum(axis=2), rule.top_groups)
    inside = (chosen[:, :, None] == jnp.arange(rule.groups)).any(axis=1)  # [T, groups]
    return jnp.where(inside[:, :, None], by_group, -jnp.inf).reshape(T, -1)


def _sparsemixer(logits: Array, rule: Rule) -> tuple[Array, Array]:
    """Each of the k is the best of what is left, and its weight its share among those near to it."""
    left, experts, weights = logits, [], []
    for _ in range(rule.top_k):
        best = left.max(axis=1, keepdims=True)
        far = (best - logits) / jnp.maximum(jnp.abs(logits), best) > 2 * rule.near
        expert = left.argmax(axis=1)[:, None].astype(jnp.int32)
        among = jax.nn.softmax(jnp.where(far, -jnp.inf, left))
        experts.append(expert)
        weights.append(jnp.take_along_axis(among, expert, axis=1))
        left = jnp.where(jnp.arange(logits.shape[1]) == expert, -jnp.inf, left)
    return jnp.concatenate(experts, axis=1), jnp.concatenate(weights, axis=1)
