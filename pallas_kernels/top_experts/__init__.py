"""Which experts a token goes through, and with what weights, in all the ways that released mixtures of experts have.

The one entry of the op: `top_experts`. Called by jaxengine/layers/router.py with a router's logits. Runs kernel.py on a
GPU, where XLA would take half a dozen kernels for a few numbers, or reference.py.
"""

from jax import Array

from pallas_kernels.backend import Backend, resolve
from pallas_kernels.top_experts import kernel, reference
from pallas_kernels.top_experts.rule import Rule, Scoring

__all__ = ["Rule", "Scoring", "top_experts"]


def top_experts(
    logits: Array,  # [T, X]
    correction: Array | None,  # [X] float32, added to the scores for the choice alone
    rule: Rule,
    *,
    backend: Backend | None = None,
) -> tuple[Array, Array]:
    """Experts [T, k] int32 and their weights [T, k] float32, the best first; computed in float32.

    Of equal experts the first one is the better. Where no logit is a number, no expert need be chosen: the kernel then
    names experts from X on, which grouped_mlp leaves out.
    """
    X = logits.shape[1]
    if rule.top_k > X or X % rule.groups:
        raise ValueError(f"{X} experts in {rule.groups} groups do not fit {rule}")
    pallas: tuple[Backend, ...] = ("pallas",) if kernel.suits(rule) else ()
    chosen = resolve(backend, (*pallas, "reference"), "top_experts")
    return {"pallas": kernel.choose, "reference": reference.choose}[chosen](logits, correction, rule)
