"""What a block says of one array of its weights. Models collect them; torch_compat fills them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax.numpy as jnp


@dataclass(frozen=True)
class WeightSpec:
    """One array of a model's weights, [outputs..., inputs...]."""

    shape: tuple[int, ...]
    dtype: jnp.dtype
    axes: tuple[str | None, ...]  # logical axis of each dimension (sharding.py)
    scale: float | None = None  # standard deviation of a dummy weight; None: ones

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize
