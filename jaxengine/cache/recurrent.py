"""State of recurrent layers: a fixed number of bytes a slot, however long its request is.

Models give one RecurrentCacheSpec a recurrent layer, `state.py` allocates it beside the page pools. A row whose first
token has position 0 starts from zeros, whatever the slot's last owner left there; so a request that was preempted
begins again, and nothing has to be cleared when one comes in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxengine.sharding import partition_spec


@dataclass(frozen=True)
class StateArray:
    """One array of a layer's state, of one slot."""

    name: str
    shape: tuple[int, ...]
    axes: tuple[str | None, ...]  # logical axis of each dimension (sharding.py)
    dtype: jnp.dtype


@dataclass(frozen=True)
class RecurrentCacheSpec:
    """A layer's state: name → [slots + 1, ...]. The last slot is scratch: dead rows read and write it."""

    states: tuple[StateArray, ...]

    def arrays(self, num_pages: int, slots: int) -> dict[str, jax.ShapeDtypeStruct]:
        """The arrays of `slots` slots, the scratch slot included; pages do not matter."""
        return {state.name: jax.ShapeDtypeStruct((slots, *state.shape), state.dtype) for state in self.states}

    @property
    def partition_spec(self) -> dict[str, PartitionSpec]:
        """Slots are whole everywhere; what is inside is split as its axes say."""
        return {state.name: partition_spec((None, *state.axes)) for state in self.states}

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot, all devices of the mesh together."""
        return sum(math.prod(state.shape) * state.dtype.itemsize for state in self.states)
