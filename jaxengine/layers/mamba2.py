"""Mamba 2 (Dao and Gu, arXiv:2405.21060) as Nemotron-H, Granite 4 and Bamba have it, as a mixer.

Made by models/decoder.py. Everything lies by group, each with its heads, so that heads are split over devices: what
happens between the two products needs no communication, except a norm over groups that lie on several devices.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import Mesh

from jaxengine.cache.recurrent import RecurrentCacheSpec, StateArray
from jaxengine.layers.block import StepInputs
from jaxengine.layers.linear import project
from jaxengine.layers.norm import FusedNorm
from jaxengine.layers.recurrent import on_devices
from jaxengine.layers.rope import Rope
from jaxengine.layers.weight_spec import WeightSpec
from jaxengine.sharding import kv_heads_on, tp_size
from pallas_kernels.causal_conv import causal_conv
from pallas_kernels.state_space import state_space


@dataclass(frozen=True)
class MambaSizes:
    """What a model's config says of its Mamba 2 layers."""

    heads: int  # H
    head_dim: int  # P
    groups: int  # G
    state_size: int  # N
    conv_width: int = 4  # W
    conv_bias: bool = True
    bias: bool = False  # of both products
    dt_limit: tuple[float, float] = (0.0, float("inf"))


@dataclass(frozen=True)
class Mamba2:
    """out(norm(state_space(silu(conv(x, b, c)), dt) · silu(z))), all from one product.

    G' groups: the model's, each copied where there are fewer than devices.
    """

    sizes: MambaSizes
    hidden_size: int
    mesh: Mesh
    dtype: jnp.dtype
    eps: float
    rope: Rope | None = None

    @property
    def groups(self) -> int:
        """G'."""
        return kv_heads_on(tp_size(self.mesh), self.sizes.heads, self.sizes.groups)

    @property
    def inner(self) -> int:
        """Features of the heads of one of the G' groups."""
        return self.sizes.heads // self.groups * self.sizes.head_dim

    @property
    def parts(self) -> tuple[int, ...]:
        """Outputs of the first product, of one of the G' groups: x, b, c, gates, dt."""
        N = self.sizes.state_size
        return self.inner, N, N, self.inner, self.sizes.heads // self.groups

    @property
    def convolved(self) -> int:
        """How many of them go through the convolution: the first three parts."""
        return sum(self.parts[:3])

    def cache_spec(self) -> RecurrentCacheSpec:
        s = self.sizes
        conv = (s.conv_width - 1, self.groups, self.convolved)
        return RecurrentCacheSpec(
            (
                StateArray("conv", conv, (None, "heads", None), self.dtype),
                StateArray("state", (s.heads, s.head_dim, s.state_size), ("heads", None, None), jnp.dtype(jnp.float32)),
            )
        )

    def weight_specs(self) -> dict[str, WeightSpec]:
        s, E, G, dtype, wide = self.sizes, self.hidden_size, self.groups, self.dtype, jnp.dtype(jnp.float32)
        outputs, convolved, of_head = sum(self.parts), self.convolved, (G, s.heads // G)
        by_group = ("heads", None)
        specs = {
            "mix_in": WeightSpec((G, outputs, E), dtype, (*by_group, "embed"), E**-0.5),
            "mix_in_bias": WeightSpec((G, outputs), dtype, by_group, 0.02) if s.bias else None,
            "conv": WeightSpec((G, convolved, s.conv_width), dtype, (*by_group, None), s.conv_width**-0.5),
            "conv_bias": WeightSpec((G, convolved), dtype, by_group, 0.02) if s.conv_bias else None,
            "dt_bias": WeightSpec(of_head, wide, by_group),
            "a_log": WeightSpec(of_head, wide, by_group),
            "d": WeightSpec(of_head, wide, by_group),
            "inner_norm": WeightSpec((G, self.inner), dtype, by_group),
            "mix_out": WeightSpec((E, G, self.inner), dtype, ("embed", *by_group), (G * self.inner) ** -0.5),
            "mix_out_bias": WeightSpec((E,), dtype, ("embed",), 0.02) if s.bias else None,
        }
        return {name: spec for name, spec in specs.items() if spec}

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
        mixed = project("te,gce->tgc", x, weights["mix_in"], weights.get("mix_in_bias"), norm=norm)
        out, cache = on_devices(
            self._on_device, self.mesh, weights, self.weight_specs(), ("conv", "conv_bias", "dt_bias", "a_log", "d"),
            mixed, 1, cache, self.cache_spec(), step,
        )  # fmt: skip
        out = self._normalised(out, weights["inner_norm"]).astype(x.dtype)
        return project("tgi,egi->te", out, weights["mix_out"], weights.get("mix_out_bias"), residual=residual), cache

    def _on_device(
        self, weights: dict[str, Array], mixed: Array, cache: dict[str, Array], step: StepInputs
    ) -> tuple[Array, dict[str, Array]]:
        """mixed: [T, G', …] → float32 [T or S, G', inner], gated and not normalised, and the states."""
        s, (T, groups, _) = self.sizes, mixed.shape
        rows = step.rows
        of_rows = rows.slot, rows.query_start, rows.starts
        z, dt = jnp.split(mixed[:, :, self.convolved :], [self.inner], axis=2)
        xbc, conv = causal_conv(
            mixed, cache["conv"], weights["conv"], weights.get("conv_bias"), *of_rows, decode_only=rows.decode_only,
            silu=True,
        )  # fmt: skip
        dt = jnp.clip(jax.nn.softplus(dt.astype(jnp.float32) + weights["dt_bias"]), *s.dt_limit)
        a, d = -jnp.exp(weights["a_log"]).reshape(-1), weights["d"].reshape(-1)
        out, state = state_space(xbc, dt.reshape(T, -1), a, d, cache["state"], *of_rows, decode_only=rows.decode_only)
        out = out.reshape(T, groups, -1)
        out, z = (y.astype(jnp.float32) if step.last is None else y[step.last].astype(jnp.float32) for y in (out, z))
        return out * jax.nn.silu(z), {"conv": conv, "state": state}

    def _normalised(self, x: Array, weight: Array) -> Array:
        """x: [T, G', inner], divided by the root mean square of each of the model's own groups."""
        shape = x.shape
        grouped = x.reshape(shape[0], self.sizes.groups, -1)
        scale = lax.rsqrt(jnp.mean(jnp.square(grouped), axis=-1, keepdims=True) + self.eps)
        return (grouped * scale).reshape(shape) * weight.astype(jnp.float32)
