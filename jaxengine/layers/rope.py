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

RopeKind = Literal["none", "default", "linear", "dynamic", "llama3", "yarn", "longrope"]


@dataclass(frozen=True)
class Rope:
    """How positions become angles. Fields not used by `kind` keep their defaults.

    Kernels know one rotation: of a head's first half into its second. Models that turn neighbours instead, or not all
    of a head's features, have the rows of their query and key weights in the order of `feature_order`, and the features
    that do not turn have angle zero.
    """

    head_dim: int
    theta: float = 10000.0
    kind: RopeKind = "default"  # "none": nothing turns
    rotary_dim: int = 0  # features that turn, the first of a head; 0: all
    interleaved: bool = False  # the checkpoint's features turn with their neighbours
    factor: float = 1.0
    original_length: int = 0  # trained length, in tokens (dynamic, llama3, yarn, longrope)
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    truncate: bool = True  # yarn: whole dimensions bound the ramp
    attention_factor: float = 1.0  # yarn, longrope: multiplies cosines and sines
    short_factor: tuple[float, ...] = ()  # longrope: stretches each frequency, of rows up to the trained length
    long_factor: tuple[float, ...] = ()  # of longer ones

    @property
    def depends_on_length(self) -> bool:
        """Whether a token's angle depends on the length of its row, and so keys on when they were computed."""
        return self.kind in ("dynamic", "longrope")

    @property
    def turning(self) -> int:
        """R: how many of a head's features turn."""
        return 0 if self.kind == "none" else self.rotary_dim or self.head_dim

    def feature_order(self) -> np.ndarray:
        """[D] int: the checkpoint's feature at each place of a head."""
        D, R = self.head_dim, self.turning
        turning = np.arange(R).reshape((R // 2, 2) if self.interleaved else (2, R // 2))
        first, second = turning.T if self.interleaved else turning
        still = np.arange(R, D)
        middle = D // 2 - R // 2
        return np.concatenate([first, still[:middle], second, still[middle:]])

    def frequencies(self) -> np.ndarray:
        """[D/2] float32 radians per position. For `dynamic` and `longrope`: those up to the trained length."""
        return np.pad(self._turning_frequencies(), (0, self.head_dim // 2 - self.turning // 2))

    def _turning_frequencies(self) -> np.ndarray:
        inverse = _inverse_frequencies(self.theta, self.turning)
        match self.kind:
            case "longrope":
                return inverse / np.asarray(self.short_factor, np.float32)
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

        positions: [T] int32. lengths: [T] int32, tokens in each token's row once this step is done; where angles depend
        on them. transformers recomputes such frequencies from the running length at every forward and leaves cached
        keys as they were rotated: a prompt takes its own length, a decoded token its position + 1. So do we, row by
        row. A prompt longer than the trained length therefore equals transformers' only if it is computed in one chunk.
        """
        frequencies = jnp.asarray(self.frequencies())
        if self.depends_on_length and lengths is not None:
            frequencies = self._dynamic(lengths) if self.kind == "dynamic" else self._longrope(lengths)  # [T, D/2]
        radians = positions.astype(jnp.float32)[:, None] * frequencies
        scale = np.where(np.arange(self.head_dim // 2) < self.turning // 2, np.float32(self.attention_factor), 1)
        cos, sin = jnp.cos(radians) * scale, jnp.sin(radians) * scale
        return lax.optimization_barrier((cos, sin))  # else XLA computes them again in every layer

    def _dynamic(self, lengths: Array) -> Array:
        """[T] → [T, D/2]: NTK-aware base, stretched with the length beyond the trained one."""
        d = self.turning
        stretch = jnp.maximum(lengths, self.original_length).astype(jnp.float32) / self.original_length
        base = self.theta * (self.factor * stretch - (self.factor - 1)) ** (d / (d - 2))
        exponents = jnp.arange(0, d, 2, dtype=jnp.float32) / d
        return jnp.pad(1.0 / base[:, None] ** exponents, ((0, 0), (0, self.head_dim // 2 - d // 2)))

    def _longrope(self, lengths: Array) -> Array:
        """[T] → [T, D/2]: rows beyond the trained length take other factors (Ding et al., arXiv:2402.13753)."""
        long = _inverse_frequencies(self.theta, self.turning) / np.asarray(self.long_factor, np.float32)
        long = np.pad(long, (0, self.head_dim // 2 - self.turning // 2))
        return jnp.where((lengths > self.original_length)[:, None], long, self.frequencies())


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
    width = rope.high_freq_factor - rope.low_freq_factor or 1e-6  # Llama 4 has none
    blend = (turns - rope.low_freq_factor) / width
    blend = np.clip(blend, 0, 1)
    return ((1 - blend) * inverse / rope.factor + blend * inverse).astype(np.float32)


def _yarn(inverse: np.ndarray, rope: Rope) -> np.ndarray:
    """Dimensions that turn often keep their frequency, slow ones are stretched (arXiv:2309.00071, §3.2)."""

    def dimension(turns: float) -> float:
        wave = rope.original_length / (turns * 2 * math.pi)
        return rope.turning * math.log(wave) / (2 * math.log(rope.theta))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.turning - 1)
    width = high - low or 0.001
    stretched = np.clip((np.arange(rope.turning // 2, dtype=np.float32) - low) / width, 0, 1)
    return (inverse / rope.factor * stretched + inverse * (1 - stretched)).astype(np.float32)
