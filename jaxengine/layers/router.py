"""The router in front of a mixture's experts: a product, and the choice among what it scores. Used by experts.py."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array

from jaxengine.layers.linear import project
from jaxengine.layers.weight_spec import WeightSpec
from pallas_kernels.top_experts import Rule, Scoring, top_experts


@dataclass(frozen=True)
class Router:
    """k of X experts for each token. What the fields without a comment mean: pallas_kernels/top_experts/rule.py."""

    experts: int  # X
    top_k: int
    scoring: Scoring = "softmax"
    renormalise: bool = False
    scale: float = 1.0
    groups: int = 1
    top_groups: int = 1
    near: float = 0.0
    bias: bool = False  # of the logits
    correction: bool = False  # added to the scores for the choice alone
    float32: bool = False  # logits are a product of float32, else of the activations' dtype

    @property
    def rule(self) -> Rule:
        return Rule(self.top_k, self.scoring, self.renormalise, self.scale, self.groups, self.top_groups, self.near)

    def weight_specs(self, hidden_size: int, dtype: jnp.dtype) -> dict[str, WeightSpec]:
        """Short name → array, in the order of use. Whole on every device."""
        wide = jnp.dtype(jnp.float32)
        kind = wide if self.float32 else dtype
        specs = {"router": WeightSpec((self.experts, hidden_size), kind, (None, "embed"), hidden_size**-0.5)}
        if self.bias:
            specs["router_bias"] = WeightSpec((self.experts,), kind, (None,), 0.02)
        if self.correction:
            specs["router_correction"] = WeightSpec((self.experts,), wide, (None,), 0.02)
        return specs

    def __call__(self, weights: dict[str, Array], x: Array) -> tuple[Array, Array]:
        """x: [T, E], normalised → experts [T, k] int32, their weights [T, k] float32."""
        x = x.astype(jnp.float32) if self.float32 else x
        logits = project("te,xe->tx", x, weights["router"], weights.get("router_bias"))
        return top_experts(logits, weights.get("router_correction"), self.rule)
