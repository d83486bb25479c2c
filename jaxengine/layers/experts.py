"""The feed-forward of a mixture of experts: a router, the experts it chooses, and those that every token goes through.

Made by models/decoder.py; calls pallas_kernels/grouped_matmul inside shard_map. Every expert is split over the devices
like a dense layer, along its inner features, so that all devices read the same share of whatever was chosen.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxengine.layers.linear import project
from jaxengine.layers.mlp import Mlp
from jaxengine.layers.norm import FusedNorm, rms_norm
from jaxengine.layers.router import Router
from jaxengine.layers.weight_spec import WeightSpec
from jaxengine.sharding import TP, partition_spec, tp_size
from pallas_kernels.grouped_matmul import Activation, grouped_mlp

SHARED = "shared_"  # in front of the names of the shared experts' weights


@dataclass(frozen=True)
class Mixture:
    """What a model's config says of its experts. F inner features of one."""

    router: Router
    mlp_size: int  # F
    activation: Activation = "silu"
    bias: bool = False  # of the experts
    weigh_inputs: bool = False  # an expert sees its weight times x, instead of its result being weighted
    shared_size: int = 0  # inner features of the experts that every token goes through, all together
    shared_gate: bool = False  # what those add is scaled by the sigmoid of a product with x
    layers: tuple[bool, ...] = ()  # per layer: whether it has experts; empty: all

    def in_layer(self, layer: int) -> bool:
        """Whether this layer has experts; else it is dense."""
        return self.layers[layer] if self.layers else True


@dataclass(frozen=True)
class Experts:
    """Sum of the chosen experts, each weighted by the router, and of the shared ones."""

    mixture: Mixture
    hidden_size: int
    mesh: Mesh
    dtype: jnp.dtype

    def weight_specs(self) -> dict[str, WeightSpec]:
        m, dtype, X, F, E = (
            self.mixture,
            self.dtype,
            self.mixture.router.experts,
            self.mixture.mlp_size,
            self.hidden_size,
        )
        specs = m.router.weight_specs(E, dtype)
        specs["experts_gate_up"] = WeightSpec((X, 2, F, E), dtype, (None, None, "mlp", "embed"), E**-0.5)
        if m.bias:
            specs["experts_gate_up_bias"] = WeightSpec((X, 2, F), dtype, (None, None, "mlp"), 0.02)
        specs["experts_down"] = WeightSpec((X, E, F), dtype, (None, "embed", "mlp"), F**-0.5)
        if m.bias:
            specs["experts_down_bias"] = WeightSpec((X, E), dtype, (None, "embed"), 0.02)
        if m.shared_size:
            specs |= {SHARED + name: spec for name, spec in self._shared.weight_specs().items()}
        if m.shared_gate:
            specs["shared_gate"] = WeightSpec((1, E), dtype, (None, "embed"), E**-0.5)
        return specs

    def __call__(self, weights: dict[str, Array], x: Array, norm: FusedNorm | None, residual: Array | None) -> Array:
        """x: [T, E] → [T, E]; see FeedForward. One all-reduce where there are several devices."""
        specs = self.weight_specs()
        mine = {name: weights[name] for name in specs}
        splits = {name: partition_spec(spec.axes) for name, spec in specs.items()}

        @functools.partial(  # GSPMD does not know how kernels split, nor that both sums may share an all-reduce
            jax.shard_map, mesh=self.mesh, in_specs=(splits, P()), out_specs=P(), check_vma=False
        )
        def on_device(weights: dict[str, Array], x: Array) -> Array:
            part = self._part(weights, x)
            return part if tp_size(self.mesh) == 1 else lax.psum(part, TP)

        out = on_device(mine, x if norm is None else rms_norm(x, *norm))  # the experts' products take no norm
        return out if residual is None else residual + out

    @property
    def _shared(self) -> Mlp:
        assert isinstance(self.mixture.activation, str)
        return Mlp(self.hidden_size, self.mixture.shared_size, self.dtype, self.mixture.activation)

    def _part(self, weights: dict[str, Array], x: Array) -> Array:
        """[T, E], what this device's share of the inner features adds."""
        m = self.mixture
        chosen, share = m.router(weights, x)
        down_bias = weights.get("experts_down_bias")
        if down_bias is not None and tp_size(self.mesh) > 1:  # counts once
            down_bias = jnp.where(lax.axis_index(TP) == 0, down_bias, 0)
        out = grouped_mlp(
            x, chosen, share, weights["experts_gate_up"], weights["experts_down"],
            gate_up_bias=weights.get("experts_gate_up_bias"), down_bias=down_bias, activation=m.activation,
            weigh_inputs=m.weigh_inputs,
        )  # fmt: skip
        if not m.shared_size:
            return out
        of_shared = {name.removeprefix(SHARED): array for name, array in weights.items() if name.startswith(SHARED)}
        if not m.shared_gate:
            return self._shared(of_shared, x, None, out)
        scale = jax.nn.sigmoid(project("te,oe->to", x, weights["shared_gate"]).astype(jnp.float32))
        return out + (self._shared(of_shared, x, None, None) * scale).astype(x.dtype)
