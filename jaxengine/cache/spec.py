"""What a layer keeps between steps, as the engine sees it: arrays whose sizes follow from pages and slots.

Models give one spec a layer; `state.py` allocates what it says and hands the layer its arrays back in every step.
"""

from __future__ import annotations

from typing import Any, Protocol

Cache = Any  # a pytree of arrays, of the structure that its spec says


class CacheSpec(Protocol):
    """Implemented by FullCacheSpec and LatentCacheSpec (pages) and RecurrentCacheSpec (slots)."""

    def arrays(self, num_pages: int, slots: int) -> Cache:
        """The ShapeDtypeStructs, without shardings, of a pool of num_pages and of `slots` slots, the scratch slot
        included. Each starts as zeros."""

    @property
    def partition_spec(self) -> Any:
        """A PartitionSpec for each of them, in the same structure."""
