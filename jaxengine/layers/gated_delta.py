"""Gated DeltaNet (Yang, Kautz and Hatamizadeh, arXiv:2412.06464) as Qwen3-Next and Qwen3.5 have it, as a mixer.

Made by models/decoder.py. Everything lies by key head, each with the value heads that it serves, so that heads are
split over devices: what happens between the two products needs no communication.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from jaxengine.cache.recurrent import RecurrentCacheSpec, StateArray
from jaxengine.layers.block import StepInputs
from jaxengine.layers.linear import project
from jaxengine.layers.norm import FusedNorm, rms_norm
from jaxengine.layers.recurrent import on_devices
from jaxengine.layers.rope import Rope
from jaxengine.layers.weight_spec import WeightSpec
from jaxengine.sharding import check_divides, tp_size
from pallas_kernels.causal_conv import causal_conv
from pallas_kernels.gated_delta import gated_delta


@dataclass(frozen=True)
class DeltaSizes:
    """What a model's config says of its Gated DeltaNets. R = value_heads / key_heads."""

    key_heads: int  # H'
    value_heads: int  # H
    key_dim: int  # K
    value_dim: int  # V
    conv_width: int = 4  # W

    @property
    def shared(self) -> int:
        return self.value_heads // self.key_heads

    @property
    def parts(self) -> tuple[int, ...]:
        """Outputs of the first product, of one key head: query, key, values, gates, beta, decay."""
        R, K, V = self.shared, self.key_dim, self.value_dim
        return K, K, R * V, R * V, R, R

    @property
    def convolved(self) -> int:
        """How many of them go through the convolution: the first three parts."""
        return sum(self.parts[:3])


@dataclass(frozen=True)
class GatedDeltaNet:
    """out(norm(gated_delta(silu(conv(q, k, v)), decay, beta)) · silu(z)), all from one product."""

    sizes: DeltaSizes
    hidden_size: int
    mesh: Mesh
    dtype: jnp.dtype
    eps: float
    rope: Rope | None = None

    def __post_init__(self) -> None:
        check_divides(tp_size(self.mesh), self.sizes.key_heads, "the model's key heads of linear attention")

    def cache_spec(self) -> RecurrentCacheSpec:
        s = self.sizes
        conv = StateArray("conv", (s.conv_width - 1, s.key_heads, s.convolved), (None, "heads", None), self.dtype)
        shape = s.value_heads, s.key_dim, s.value_dim
        return RecurrentCacheSpec((conv, StateArray("state", shape, ("heads", None, None), jnp.dtype(jnp.float32))))

    def weight_specs(self) -> dict[str, WeightSpec]:
        s, E, dtype, wide = self.sizes, self.hidden_size, self.dtype, jnp.dtype(jnp.float32)
        heads, values = s.key_heads, s.value_heads * s.value_dim
        return {
            "mix_in": WeightSpec((heads, sum(s.parts), E), dtype, ("heads", None, "embed"), E**-0.5),
            "conv": WeightSpec((heads, s.convolved, s.conv_width), dtype, ("heads", None, None), s.conv_width**-0.5),
            "dt_bias": WeightSpec((heads, s.shared), wide, ("heads", None)),
            "a_log": WeightSpec((heads, s.shared), wide, ("heads", None)),
            "inner_norm": WeightSpec((s.value_dim,), dtype, (None,)),
            "mix_out": WeightSpec((E, s.value_heads, s.value_dim), dtype, ("embed", "heads", None), values**-0.5),
        }

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
        mixed = project("te,hce->thc", x, weights["mix_in"], norm=norm)
        out, cache = on_devices(
            self._on_device, self.mesh, weights, self.weight_specs(), ("conv", "dt_bias", "a_log", "inner_norm"),
            mixed, 1, cache, self.cache_spec(), step,
        )  # fmt: skip
        return project("thv,ehv->te", out, weights["mix_out"], residual=residual), cache

    def _on_device(
        self, weights: dict[str, Array], mixed: Array, cache: dict[str, Array], step: StepInputs
    ) -> tuple[Array, dict[str, Array]]:
        """mixed: [T, H', …] → [T or S, H, V], and the states."""
        s, T = self.sizes, mixed.shape[0]
        rows = step.rows
        of_rows = rows.slot, rows.query_start, rows.starts
        z, b, a = jnp.split(mixed[:, :, s.convolved :], np.cumsum(s.parts[3:-1]), axis=2)
        qkv, conv = causal_conv(
            mixed, cache["conv"], weights["conv"], None, *of_rows, decode_only=rows.decode_only, silu=True
        )
        decay = -jnp.exp(weights["a_log"]) * jax.nn.softplus(a.astype(jnp.float32) + weights["dt_bias"])
        beta = jax.nn.sigmoid(b.astype(jnp.float32))
        z = z.reshape(T, -1, s.value_dim)
        decay, beta = (y.reshape(T, -1) for y in (decay, beta))
        out, state = gated_delta(qkv, decay, beta, cache["state"], *of_rows, decode_only=rows.decode_only)
        out, z = (y if step.last is None else y[step.last] for y in (out, z))
        out = rms_norm(out.astype(jnp.float32), weights["inner_norm"], self.eps) * jax.nn.silu(z.astype(jnp.float32))
        return out.astype(mixed.dtype), {"conv": conv, "state": state}
