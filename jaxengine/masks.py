"""The masks of a step: what the grammars of its rows allow, as the full programs take it.

`runner.py` passes `of(plan, rows)` beside the packed vector; `grammar.py` has written each row's part.
"""

from __future__ import annotations

from collections.abc import Collection

import jax
import numpy as np
from jax import Array

from jaxengine.admission import AdmissionLayout
from jaxengine.plan import Plan


class Masks:
    """[S, W] int32 each, W words that hold a bit for every token. They travel only when a row has a grammar."""

    def __init__(self, vocab_size: int, sharding: jax.sharding.Sharding) -> None:
        self.words = AdmissionLayout(vocab_size).words
        self.sharding = sharding
        self._nothing: dict[int, Array] = {}  # by S, on the device for good

    def of(self, plan: Plan, rows: int) -> Array | np.ndarray:
        found = [
            (place, row.request.matcher.mask)
            for place, row in enumerate(plan.rows)
            if row.samples and row.request.matcher is not None
        ]
        if not found:
            return self.nothing(rows)
        masks = np.empty((rows, self.words), np.int32)  # rows without a grammar do not look at theirs
        for place, mask in found:
            assert mask is not None, "a row is planned when its mask is written"
            masks[place] = mask
        return masks

    def nothing(self, rows: int) -> Array:
        """For a step in which no row has a grammar."""
        if rows not in self._nothing:
            self._nothing[rows] = jax.device_put(np.zeros((rows, self.words), np.int32), self.sharding)
        return self._nothing[rows]

    def most_bytes(self, rows: Collection[int]) -> int:
        """What they take at most where programs have so many rows: those that say nothing, a step's own, and those of
        the step sent behind it.
        """
        return 4 * self.words * (sum(set(rows)) + 2 * max(rows))

    def close(self) -> None:
        for array in self._nothing.values():
            array.delete()
        self._nothing.clear()
