"""What a step's program gets as masks."""

from __future__ import annotations

import jax
import numpy as np

from jaxengine.masks import Masks
from jaxengine.plan import Plan, Row
from jaxengine.request import Request, SamplingParams


class Allows:
    """A matcher, as far as its mask goes."""

    def __init__(self, *words: int) -> None:
        self.mask = np.array(words, np.int32)


def row(name: str, samples: int, matcher: Allows | None = None) -> Row:
    request = Request(name, [1, 2], SamplingParams())
    request.matcher = matcher  # type: ignore[assignment]
    return Row(request, 0, 2, samples, [], [], True, 0)


def test_rows_with_a_grammar_bring_their_masks() -> None:
    masks = Masks(70, jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    rows = [row("a", 1), row("b", 1, Allows(1, 2, 3)), row("c", 0, Allows(4, 5, 6)), row("d", 1, Allows(7, 8, 9))]
    made = masks.of(Plan(rows, 0, 8, []), 5)
    assert isinstance(made, np.ndarray)
    assert (made.shape, made.dtype) == ((5, 3), np.int32)
    np.testing.assert_array_equal(made[[1, 3]], [[1, 2, 3], [7, 8, 9]])


def test_without_a_grammar_nothing_travels() -> None:
    masks = Masks(70, jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    plans = [Plan([], 0, 0, []), Plan([row("a", 1), row("c", 0, Allows(4, 5, 6))], 0, 4, [])]
    first, second = (masks.of(plan, 4) for plan in plans)
    assert first is second is masks.nothing(4)
    assert masks.nothing(2).shape == (2, 3)
    assert masks.most_bytes([2, 4, 4]) == 4 * 3 * (2 + 4 + 2 * 4)
    masks.close()
    assert first.is_deleted()
