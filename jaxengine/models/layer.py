"""One layer of a decoder: a mixer and a feed-forward, joined by norms and residuals. Made and called by decoder.py."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import jax
from jax import Array

from jaxengine.cache.spec import Cache
from jaxengine.layers.block import FeedForward, Mixer, StepInputs
from jaxengine.layers.norm import FusedNorm, Norm
from jaxengine.layers.weight_spec import WeightSpec


@dataclass(frozen=True)
class Layer:
    """x + mixer(norm(x)), then the same with the feed-forward; each norm where the model has it.

    parallel: both read the layer's input, the feed-forward through the mixer's norm where it has none of its own.
    norms_after: a norm in front of a block stands behind its residual instead (the smallest OPT).
    """

    mixer: Mixer | None
    feed_forward: FeedForward | None
    attention_norm: Norm | None = None
    attention_post_norm: Norm | None = None  # of what the mixer adds
    mlp_norm: Norm | None = None
    mlp_post_norm: Norm | None = None  # of what the feed-forward adds
    parallel: bool = False
    norms_after: bool = False
    residual_scale: float = 1.0  # of what is added

    def weight_specs(self) -> dict[str, WeightSpec]:
        """Short name → array, in the order of use."""
        specs: dict[str, WeightSpec] = {}
        for name, part in (
            ("attention_norm", self.attention_norm),
            ("", self.mixer),
            ("attention_post_norm", self.attention_post_norm),
            ("mlp_norm", self.mlp_norm),
            ("", self.feed_forward),
            ("mlp_post_norm", self.mlp_post_norm),
        ):
            if part is not None:
                specs |= part.weight_specs(name) if isinstance(part, Norm) else part.weight_specs()
        return specs

    @functools.partial(jax.jit, static_argnums=0)  # traced and lowered once for all equal layers; XLA inlines it
    def __call__(self, weights: dict[str, Array], x: Array, step: StepInputs, cache: Cache) -> tuple[Array, Cache]:
        """x: [T, E] → [T, E], or [S, E] where step.last says that only the last tokens are wanted; and the cache."""
        kept = x if step.last is None else x[step.last]
        out = kept
        if self.mixer is not None:
            with jax.named_scope("attention"):
                read, norm = self._read(weights, "attention_norm", x)
                added, cache = self.mixer(weights, read, norm, step, cache, self._fused(self.attention_post_norm, kept))
                out = self._sum(weights, "attention_post_norm", kept, added)
                if self.norms_after and self.attention_norm is not None:
                    out = self.attention_norm(weights, "attention_norm", out)
        if self.feed_forward is not None:
            with jax.named_scope("mlp"):
                name = "attention_norm" if self.parallel and self.mlp_norm is None else "mlp_norm"
                read, norm = self._read(weights, name, kept if self.parallel else out)
                added = self.feed_forward(weights, read, norm, self._fused(self.mlp_post_norm, out))
                out = self._sum(weights, "mlp_post_norm", out, added)
                if self.norms_after and self.mlp_norm is not None:
                    out = self.mlp_norm(weights, "mlp_norm", out)
        return out, cache

    def _read(self, weights: dict[str, Array], name: str, x: Array) -> tuple[Array, FusedNorm | None]:
        """What a block's products read, and the norm that they apply to it."""
        norm: Norm | None = None if self.norms_after else getattr(self, name)
        return (x, None) if norm is None else norm.before(weights, name, x)

    def _fused(self, post_norm: Norm | None, residual: Array) -> Array | None:
        """The residual, where a block's last product may add it."""
        return residual if post_norm is None and self.residual_scale == 1 else None

    def _sum(self, weights: dict[str, Array], name: str, residual: Array, added: Array) -> Array:
        norm: Norm | None = getattr(self, name)
        if self._fused(norm, residual) is not None:
            return added
        added = added if norm is None else norm(weights, name, added)
        return residual + (added if self.residual_scale == 1 else added * self.residual_scale)
