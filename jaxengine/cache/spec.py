"""What a layer keeps between steps, as the engine sees it: arrays whose sizes follow from pages and slots.

Models give one spec a layer; `state.py` allocates what it says and hands the layer its arrays back in every step.
"""

from __future__ import annotations

import abc
import math
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import Array

Cache = Any  # a pytree of arrays, of the structure that its spec says


class CacheSpec(Protocol):
    """Implemented by FullCacheSpec and LatentCacheSpec (pages) and RecurrentCacheSpec (slots)."""

    def arrays(self, num_pages: int, slots: int) -> Cache:
        """The ShapeDtypeStructs, without shardings, of a pool of num_pages and of `slots` slots, the scratch slot
        included. Each starts as zeros."""

    @property
    def partition_spec(self) -> Any:
        """A PartitionSpec for each of them, in the same structure."""


class PagedCacheSpec(abc.ABC):
    """What a layer keeps in pages: one pool."""

    dtype: jnp.dtype

    @abc.abstractmethod
    def shape(self, num_pages: int) -> tuple[int, ...]:
        """Shape of a pool of num_pages pages, all devices of the mesh together."""

    def arrays(self, num_pages: int, slots: int) -> jax.ShapeDtypeStruct:
        """The pool of num_pages pages; slots do not matter."""
        return jax.ShapeDtypeStruct(self.shape(num_pages), self.dtype)

    def num_pages(self, pool: Array) -> int:
        """N of a pool made by this spec."""
        return math.prod(pool.shape) // math.prod(self.shape(1))
