"""Ragged rows with state by slot, for the tests of recurrent ops."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array

MIXES: dict[str, tuple[list[int], list[bool]]] = {  # tokens of each row, and which rows start their request
    "decode rows, long ones, a dead one": ([1, 1, 1, 70, 64, 129, 0], [False, True, False, True, False, False, True]),
    "one long row": ([200], [True]),
    "one token each": ([1, 1, 1], [False, True, False]),
    "a single one behind a long one": ([5, 1, 2], [False, False, True]),
    "nothing but dead rows": ([0, 0], [True, True]),
}


@dataclass(frozen=True)
class Rows:
    slot: Array
    query_start: Array
    starts: Array
    tokens: int
    slots: int  # scratch included

    @property
    def arguments(self) -> tuple[Array, Array, Array]:
        return self.slot, self.query_start, self.starts


def rows_of(counts: list[int], starts: list[bool], padding: int = 5) -> Rows:
    """Slots in random order; dead rows have the scratch slot; `padding` tokens of no row behind the last."""
    slots = len(counts) + 3
    order = np.random.default_rng(3).permutation(slots - 1)
    slot = [order[s] if count else slots - 1 for s, count in enumerate(counts)]
    ends = np.concatenate([[0], np.cumsum(counts)])
    ints = [jnp.asarray(x, jnp.int32) for x in (slot, ends)]
    return Rows(ints[0], ints[1], jnp.asarray(starts), int(ends[-1]) + padding, slots)


def decode_rows(live: list[bool], starts: list[bool]) -> Rows:
    """Every row has one token, also the dead ones, as in a step that decodes only."""
    made = rows_of([1] * len(live), starts, padding=0)
    slot = jnp.where(jnp.asarray(live), made.slot, made.slots - 1)
    return Rows(slot, made.query_start, made.starts, made.tokens, made.slots)
