"""The gated short convolution of LFM2 (Liquid AI), as a mixer. Made by models/decoder.py.

Channels do not meet between the two products, so they are split over devices.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from jaxengine.cache.recurrent import RecurrentCacheSpec, StateArray
from jaxengine.layers.block import StepInputs
from jaxengine.layers.linear import project
from jaxengine.layers.norm import FusedNorm
from jaxengine.layers.recurrent import on_devices
from jaxengine.layers.rope import Rope
from jaxengine.layers.weight_spec import WeightSpec
from jaxengine.sharding import check_divides, tp_size
from pallas_kernels.causal_conv import causal_conv


@dataclass(frozen=True)
class ConvSizes:
    """What a model's config says of its short convolutions."""

    width: int  # W
    bias: bool = False  # of the products and of the convolution


@dataclass(frozen=True)
class ShortConv:
    """out(c · conv(b · x)), with b, c and x from one product."""

    sizes: ConvSizes
    hidden_size: int
    mesh: Mesh
    dtype: jnp.dtype
    rope: Rope | None = None

    def __post_init__(self) -> None:
        check_divides(tp_size(self.mesh), self.hidden_size, "the model's hidden size")

    def cache_spec(self) -> RecurrentCacheSpec:
        shape = self.sizes.width - 1, self.hidden_size
        return RecurrentCacheSpec((StateArray("conv", shape, (None, "mlp"), self.dtype),))

    def weight_specs(self) -> dict[str, WeightSpec]:
        E, W, dtype = self.hidden_size, self.sizes.width, self.dtype
        specs = {
            "mix_in": WeightSpec((3, E, E), dtype, (None, "mlp", "embed"), E**-0.5),
            "mix_in_bias": WeightSpec((3, E), dtype, (None, "mlp"), 0.02),
            "conv": WeightSpec((E, W), dtype, ("mlp", None), W**-0.5),
            "conv_bias": WeightSpec((E,), dtype, ("mlp",), 0.02),
            "mix_out": WeightSpec((E, E), dtype, ("embed", "mlp"), E**-0.5),
            "mix_out_bias": WeightSpec((E,), dtype, ("embed",), 0.02),
        }
        return {name: spec for name, spec in specs.items() if self.sizes.bias or not name.endswith("_bias")}

    def __call__(
        self,
        weights: dict[str, Array],
        x: Array,  # [T, E]
        norm: FusedNorm | None,
        step: StepInputs,
        cache: dict[str, Array],
        residual: Array | None,
    ) -> tuple[Array, dict[str, Array]]:
        """See Mixer."""
        mixed = project("te,cfe->tcf", x, weights["mix_in"], weights.get("mix_in_bias"), norm=norm)
        out, cache = on_devices(
            self._on_device, self.mesh, weights, self.weight_specs(), ("conv", "conv_bias"),
            mixed, 2, cache, self.cache_spec(), step,
        )  # fmt: skip
        return project("tf,ef->te", out, weights["mix_out"], weights.get("mix_out_bias"), residual=residual), cache

    def _on_device(
        self, weights: dict[str, Array], mixed: Array, cache: dict[str, Array], step: StepInputs
    ) -> tuple[Array, dict[str, Array]]:
        """mixed: [T, 3, E] → [T or S, E], and the state."""
        rows = step.rows
        out, conv = causal_conv(
            mixed[:, 0] * mixed[:, 2], cache["conv"], weights["conv"], weights.get("conv_bias"),
            rows.slot, rows.query_start, rows.starts, decode_only=rows.decode_only,
        )  # fmt: skip
        out = out * mixed[:, 1]
        return out if step.last is None else out[step.last], {"conv": conv}
