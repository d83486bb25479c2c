"""Attention over heads, grouped or not, as a mixer: projections, norms of heads, rotation, pages, output.

Made by models/decoder.py; attention.py writes and reads the pages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from jaxengine.cache.full import FullCacheSpec
from jaxengine.layers.attention import attend
from jaxengine.layers.block import StepInputs
from jaxengine.layers.linear import project
from jaxengine.layers.norm import FusedNorm, layer_norm, rms_norm
from jaxengine.layers.rope import Rope
from jaxengine.layers.weight_spec import WeightSpec
from pallas_kernels.rope_write.reference import rotated

# Of queries and keys before they are rotated: "head" RMS over each head, with one weight for all; "all" RMS over all
# heads together (OLMo 2); "layer" layer norm over each head, with a weight of its own (Cohere, StableLM); "plain" RMS
# over each head without a weight, in layers whose heads turn (Llama 4). Of rotated ones: "turned", as "head" (Hunyuan).
QkNorm = Literal["", "head", "all", "layer", "plain", "turned"]


@dataclass(frozen=True)
class QueryGrowth:
    """Queries that grow with their position p: times 1 + beta · log(1 + ⌊p / length⌋) (Nakanishi, arXiv:2501.19399)."""

    beta: float
    length: int
    from_one: bool = False  # p counts from 1
    still: bool = False  # only of heads that do not turn

    def __call__(self, positions: Array) -> Array:
        """[T] int32 → [T] float32."""
        return 1 + self.beta * jnp.log1p(((positions + self.from_one) // self.length).astype(jnp.float32))


@dataclass(frozen=True)
class Heads:
    """H = K·G query heads over K kv heads of D; K is a multiple of the devices, copied where the model has fewer."""

    hidden_size: int
    num_heads: int
    cache: FullCacheSpec
    rope: Rope | None
    mesh: Mesh
    dtype: jnp.dtype
    scale: float
    eps: float  # of the norms of queries and keys
    norm_dtype: jnp.dtype  # of their weights
    softcap: float | None = None
    qk_norm: QkNorm = ""
    qkv_bias: bool = False
    o_bias: bool = False
    sinks: bool = False
    clip: float | None = None  # bounds queries, keys and values to ±clip
    query_growth: QueryGrowth | None = None  # not beside norms of heads, which come later
    chunk: int | None = None  # positions are cut into chunks of so many, and no token sees beyond its own
    gate: bool = False  # what a head found is scaled by the sigmoid of a product with x

    def cache_spec(self) -> FullCacheSpec:
        return self.cache

    def weight_specs(self) -> dict[str, WeightSpec]:
        E, H, K, D = self.hidden_size, self.num_heads, self.cache.kv_heads, self.cache.head_dim
        heads = ("kv_heads", None, "head_dim")
        norms = {}
        if self.qk_norm in ("head", "turned"):
            norms = {name: WeightSpec((D,), self.norm_dtype, ("head_dim",)) for name in ("q_norm", "k_norm")}
        elif self.qk_norm in ("all", "layer"):  # a weight for each feature of each head, where that head is
            norms = {"qk_norm": WeightSpec((K, H // K + 1, D), self.norm_dtype, heads)}
        specs = {
            "qkv": WeightSpec((K, H // K + 2, D, E), self.dtype, (*heads, "embed"), E**-0.5),
            "qkv_bias": WeightSpec((K, H // K + 2, D), self.dtype, heads, 0.02) if self.qkv_bias else None,
            **norms,
            "sinks": WeightSpec((K, H // K), jnp.dtype(jnp.float32), ("kv_heads", None), 1.0) if self.sinks else None,
            "gate": WeightSpec((H, D, E), self.dtype, ("heads", "head_dim", "embed"), E**-0.5) if self.gate else None,
            "o": WeightSpec((E, H, D), self.dtype, ("embed", "heads", "head_dim"), (H * D) ** -0.5),
            "o_bias": WeightSpec((E,), self.dtype, ("embed",), 0.02) if self.o_bias else None,
        }
        return {name: spec for name, spec in specs.items() if spec}

    def __call__(
        self,
        weights: dict[str, Array],
        x: Array,  # [T, E]
        norm: FusedNorm | None,
        step: StepInputs,
        cache: Array,
        residual: Array | None,
    ) -> tuple[Array, Array]:
        """See Mixer."""
        qkv = project("te,kgde->tkgd", x, weights["qkv"], weights.get("qkv_bias"), norm=norm)  # [T, K, G + 2, D]
        qkv = qkv if self.clip is None else jnp.clip(qkv, -self.clip, self.clip)
        qkv = self._normalised(qkv, weights)
        if self.query_growth is not None and not (self.query_growth.still and self._turns):
            growth = self.query_growth(step.positions).astype(qkv.dtype)[:, None, None, None]
            qkv = jnp.concatenate([qkv[:, :, :-2] * growth, qkv[:, :, -2:]], axis=2)
        assert step.angles is not None
        angles = step.angles
        if self.qk_norm == "turned":
            qkv, angles = self._turned(qkv, weights, angles)
        out, cache = attend(
            qkv, angles, cache, step.rows,
            norms=(weights["q_norm"], weights["k_norm"]) if self.qk_norm == "head" else None,
            sinks=weights.get("sinks"), eps=self.eps, cache=self.cache, mesh=self.mesh, scale=self.scale,
            softcap=self.softcap, chunk=self.chunk, last=step.last,
        )  # fmt: skip
        if self.gate:
            read = x if step.last is None else x[step.last]
            out = out * jax.nn.sigmoid(project("te,hde->thd", read, weights["gate"], norm=norm))
        return project("thd,ehd->te", out, weights["o"], weights.get("o_bias"), residual=residual), cache

    @property
    def _turns(self) -> bool:
        return self.rope is not None and self.rope.turning > 0

    def _normalised(self, qkv: Array, weights: dict[str, Array]) -> Array:
        """With queries and keys normalised in the ways that rope_write does not know."""
        if self.qk_norm in ("", "head", "turned") or (self.qk_norm == "plain" and not self._turns):
            return qkv
        qk = qkv[:, :, :-1]  # [T, K, G + 1, D]
        if self.qk_norm == "plain":
            qk = rms_norm(qk, None, self.eps)
        elif self.qk_norm == "layer":
            qk = layer_norm(qk, weights["qk_norm"], None, self.eps)
        else:
            q, k = (_over_heads(part, self.eps) for part in (qk[:, :, :-1], qk[:, :, -1:]))
            qk = (jnp.concatenate([q, k], axis=2) * weights["qk_norm"]).astype(qkv.dtype)
        return jnp.concatenate([qk, qkv[:, :, -1:]], axis=2)

    def _turned(
        self, qkv: Array, weights: dict[str, Array], angles: tuple[Array, Array]
    ) -> tuple[Array, tuple[Array, Array]]:
        """With queries and keys rotated and then normalised, and the angles that are left: none."""
        qk = rotated(qkv[:, :, :-1], *angles)
        q, k = (
            rms_norm(qk[:, :, :-1], weights["q_norm"], self.eps),
            rms_norm(qk[:, :, -1:], weights["k_norm"], self.eps),
        )
        still = jnp.ones_like(angles[0]), jnp.zeros_like(angles[1])
        return jnp.concatenate([q, k, qkv[:, :, -1:]], axis=2), still


def _over_heads(x: Array, eps: float) -> Array:
    """x: [T, K, n, D] → float32, each token divided by its root mean square over all heads."""
    wide = x.astype(jnp.float32)
    return wide / jnp.sqrt(jnp.mean(jnp.square(wide), axis=(1, 2, 3), keepdims=True) + eps)
