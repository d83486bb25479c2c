"""Rotary position embedding (Su et al., arXiv:2104.09864) and the ways to stretch it beyond the trained length.

A model's config holds one `Rope`; the model asks it once a step for cosines and sines, and every layer uses them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

RopeKind = Literal["default", "linear", "dynamic", "llama3", "yarn"]


@dataclass(frozen=True)
class Rope:
    """How positions become angles. Fields not used by `kind` keep their defaults."""

    head_dim: int
    theta: float = 10000.0
    kind: RopeKind = "default"
    factor: float = 1.0
    original_length: int = 0  # trained length, in tokens (dynamic, llama3, yarn)
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    truncate: bool = True  # yarn: whole dimensions bound the ramp
    attention_factor: float = 1.0  # yarn: multiplies cosines and sines

    @property
    def depends_on_length(self) -> bool:
        """Whether a token's angle depends on the length of its row, and so keys on when they were computed."""
        return self.kind == "dynamic"

    def frequencies(self) -> np.ndarray:
        """[D/2] float32 radians per position. For `dynamic`: those up to the trained length."""
        inverse = _inverse_frequencies(self.theta, self.head_dim)
        match self.kind:
            case "linear":
                return inverse / np.float32(self.factor)
            case "llama3":
                return _llama3(inverse, self)
            case "yarn":
                return _yarn(inverse, self)
            case _:
                return inverse

    def angles(self, positions: Array, lengths: Array | None = None) -> tuple[Array, Array]:
        """Cosines and sines, each [T, D/2] float32.

        positions: [T] int32. lengths: [T] int32, tokens in each token's row once this step is done; for `dynamic` only.
        transformers recomputes the base of `dynamic` from the running length at every forward and leaves cached keys as
        they were rotated: a prompt takes its own length, a decoded token its position + 1. So do we, row by row. A
        prompt longer than the trained length therefore equals transformers' only if it is computed in one chunk.
        """
        if self.kind == "dynamic" and lengths is not None:
            frequencies = self._dynamic(lengths)  # [T, D/2]
        else:
            frequencies = jnp.asarray(self.frequencies())
        radians = positions.astype(jnp.float32)[:, None] * frequencies
        cos, sin = jnp.cos(radians) * self.attention_factor, jnp.sin(radians) * self.attention_factor
        return lax.optimization_barrier((cos, sin))  # else XLA computes them again in every layer

    def _dynamic(self, lengths: Array) -> Array:
        """[T] → [T, D/2]: NTK-aware base, stretched with the length beyond the trained one."""
        d = self.head_dim
        stretch = jnp.maximum(lengths, self.original_length).astype(jnp.float32) / self.original_length
        base = self.theta * (self.factor * stretch - (self.factor - 1)) ** (d / (d - 2))
        exponents = jnp.arange(0, d, 2, dtype=jnp.float32) / d
        return 1.0 / base[:, None] ** exponents


def yarn_attention_factor(factor: float, mscale: float | None, mscale_all_dim: float | None) -> float:
    """The factor on cosines and sines that a yarn config implies when it states none (arXiv:2309.00071, §3.4)."""

    def temperature(scale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0

    if mscale and mscale_all_dim:
        return temperature(mscale) / temperature(mscale_all_dim)
    return temperature(1.0)


def _inverse_frequencies(theta: float, dim: int) -> np.ndarray:
    exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    return (1.0 / np.float32(theta) ** exponents).astype(np.float32)


def _llama3(inverse: np.ndarray, rope: Rope) -> np.ndarray:
    """Long waves are stretched by factor, short ones kept, those between blended (Llama 3.1)."""
    turns = rope.original_length * inverse / (2 * math.pi)  # full turns within the trained length
    blend = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    blend = np.clip(blend, 0, 1)
    return ((1 - blend) * inverse / rope.factor + blend * inverse).astype(np.float32)


def _yarn(inverse: np.ndarray, rope: Rope) -> np.ndarray:
    """Dimensions that turn often keep their frequency, slow ones are stretched (arXiv:2309.00071, §3.2)."""

    def dimension(turns: float) -> float:
        wave = rope.original_length / (turns * 2 * math.pi)
        return rope.head_dim * math.log(wave) / (2 * math.log(rope.theta))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.head_dim - 1)
    width = high - low or 0.001
    stretched = np.clip((np.arange(rope.head_dim // 2, dtype=np.float32) - low) / width, 0, 1)
    return (inverse / rope.factor * stretched + inverse * (1 - stretched)).astype(np.float32)
