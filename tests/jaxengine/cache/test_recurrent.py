"""State by slot: its size, its sharding, and its place in the engine's state."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from jaxengine.cache.full import FullCacheSpec
from jaxengine.cache.recurrent import RecurrentCacheSpec, StateArray
from jaxengine.sharding import make_mesh
from jaxengine.state import StateShape, create_state, device_bytes

SPEC = RecurrentCacheSpec(
    (
        StateArray("conv", (3, 4, 10), (None, "heads", None), jnp.dtype("bfloat16")),
        StateArray("state", (4, 8, 16), ("heads", None, None), jnp.dtype("float32")),
    )
)

PAGES = FullCacheSpec(kv_heads=4, head_dim=16, page_size=8, dtype=jnp.dtype("float32"))


class Hybrid:
    """As much of a model as a state asks for."""

    config = type("Config", (), {"vocab_size": 17})

    def __init__(self, tp: int) -> None:
        self.mesh = make_mesh(tp)

    def cache_specs(self) -> tuple[Any, ...]:
        return SPEC, PAGES


def test_bytes_of_a_slot() -> None:
    assert SPEC.slot_bytes == 3 * 4 * 10 * 2 + 4 * 8 * 16 * 4
    arrays = jax.tree.leaves(SPEC.arrays(num_pages=9, slots=5))
    assert sum(array.size * array.dtype.itemsize for array in arrays) == 5 * SPEC.slot_bytes


@pytest.mark.parametrize("tp", [1, 4])
def test_the_state_of_slots_lies_beside_the_pages_and_is_split_over_heads(tp: int) -> None:
    kv = create_state(Hybrid(tp), StateShape(num_pages=6, slots=2, pages_per_row=3)).kv  # type: ignore[arg-type]
    states, pool = kv
    assert states["state"].shape == (3, 4, 8, 16)
    assert states["conv"].shape == (3, 3, 4, 10)
    assert not any(array.any() for array in jax.tree.leaves(kv))
    assert device_bytes(states) == 3 * SPEC.slot_bytes // tp
    assert {shard.data.shape for shard in states["conv"].addressable_shards} == {(3, 3, 4 // tp, 10)}
    assert pool.shape == PAGES.shape(6)
