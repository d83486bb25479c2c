"""Normalisations: root mean square (Zhang and Sennrich, arXiv:1910.07467) and layer norm (Ba et al., arXiv:1607.06450).

A `Norm` is what a model knows of one; its weights are in the layer under the norm's own name. Blocks are given the RMS
ones to hand on to their products, which normalise what they read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from jax import Array, lax

from jaxengine.layers.weight_spec import WeightSpec

NormKind = Literal["rms", "layer"]
FusedNorm = tuple[Array, float]  # weight [E] and epsilon of an RMS norm that a product applies to what it reads


@dataclass(frozen=True)
class Norm:
    """A normalisation over the last axis, of `size` features."""

    size: int
    eps: float
    dtype: jnp.dtype  # of its weights
    kind: NormKind = "rms"
    weight: bool = True
    bias: bool = False

    def weight_specs(self, name: str) -> dict[str, WeightSpec]:
        """`name` and `name`_bias, as far as it has them."""
        specs = {name: WeightSpec((self.size,), self.dtype, ("embed",))} if self.weight else {}
        if self.bias:
            specs[f"{name}_bias"] = WeightSpec((self.size,), self.dtype, ("embed",), 0.02)
        return specs

    def __call__(self, weights: dict[str, Array], name: str, x: Array) -> Array:
        """x: [..., E] → the same shape and dtype."""
        if self.kind == "layer":
            return layer_norm(x, weights.get(name), weights.get(f"{name}_bias"), self.eps)
        return rms_norm(x, weights.get(name), self.eps)

    def before(self, weights: dict[str, Array], name: str, x: Array) -> tuple[Array, FusedNorm | None]:
        """What the products behind it read, and the norm that they are to apply to it."""
        if self.kind == "rms" and self.weight:
            return x, (weights[name], self.eps)
        return self(weights, name, x), None


def rms_norm(x: Array, weight: Array | None, eps: float) -> Array:
    """x: [..., E], weight: [E] → [..., E] in x's dtype; computed in float32 with one rounding at the end."""
    squares = jnp.sum(jnp.square(x.astype(jnp.float32)), axis=-1, keepdims=True)
    scale = lax.rsqrt(squares / x.shape[-1] + eps)
    return _scaled(x.astype(jnp.float32) * scale, weight, None).astype(x.dtype)


def layer_norm(x: Array, weight: Array | None, bias: Array | None, eps: float) -> Array:
    """x: [..., E], weight and bias: [E] → [..., E] in x's dtype; computed in float32 with one rounding at the end."""
    wide = x.astype(jnp.float32)
    wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
    scale = lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + eps)
    return _scaled(wide * scale, weight, bias).astype(x.dtype)


def _scaled(x: Array, weight: Array | None, bias: Array | None) -> Array:
    x = x if weight is None else x * weight.astype(jnp.float32)
    return x if bias is None else x + bias.astype(jnp.float32)
