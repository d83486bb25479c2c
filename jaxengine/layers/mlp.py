"""The feed-forward blocks of dense layers: gated (Shazeer, arXiv:2002.05202) and plain. Made by models/decoder.py."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from jaxengine.layers.linear import ACTIVATIONS, project
from jaxengine.layers.norm import FusedNorm
from jaxengine.layers.weight_spec import WeightSpec


@dataclass(frozen=True)
class Mlp:
    """down(activation(gate(x)) · up(x)), or down(activation(up(x))) where it is not gated. F mlp size."""

    hidden_size: int
    mlp_size: int
    dtype: jnp.dtype
    activation: str  # one of linear.ACTIVATIONS, or where it is not gated "xielu"
    gated: bool = True
    bias: bool = False

    def weight_specs(self) -> dict[str, WeightSpec]:
        E, F = self.hidden_size, self.mlp_size
        up, first = ("gate_up", (2,)) if self.gated else ("up", ())
        axes = (*(None for _ in first), "mlp")
        specs = {up: WeightSpec((*first, F, E), self.dtype, (*axes, "embed"), E**-0.5)}
        if self.bias:
            specs[f"{up}_bias"] = WeightSpec((*first, F), self.dtype, axes, 0.02)
        if self.activation == "xielu":
            specs["xielu"] = WeightSpec((2, 1), jnp.dtype(jnp.float32), (None, None))
        specs["down"] = WeightSpec((E, F), self.dtype, ("embed", "mlp"), F**-0.5)
        if self.bias:
            specs["down_bias"] = WeightSpec((E,), self.dtype, ("embed",), 0.02)
        return specs

    def __call__(self, weights: dict[str, Array], x: Array, norm: FusedNorm | None, residual: Array | None) -> Array:
        """x: [T, E] → [T, E]; see FeedForward."""
        if self.gated:
            bias = weights.get("gate_up_bias")
            hidden = project("te,cfe->tcf", x, weights["gate_up"], bias, norm=norm, activation=self.activation)
        else:
            hidden = project("te,fe->tf", x, weights["up"], weights.get("up_bias"), norm=norm)
            learned = weights.get("xielu")
            hidden = ACTIVATIONS[self.activation](hidden) if learned is None else xielu(hidden, learned)
        return project("tf,ef->te", hidden, weights["down"], weights.get("down_bias"), residual=residual)


def xielu(x: Array, learned: Array) -> Array:
    """x: [T, F], learned: [2, 1], of the two sides of zero → [T, F]; computed in float32 (Huang, arXiv:2411.13010)."""
    wide = x.astype(jnp.float32)
    right, left = jax.nn.softplus(learned[0]), 0.5 + jax.nn.softplus(learned[1])
    curved = jnp.where(wide > 0, right * wide * wide, left * (jnp.expm1(jnp.minimum(wide, -1e-6)) - wide))
    return (curved + 0.5 * wide).astype(x.dtype)
