"""Which layers share arrays and page numbers."""

from __future__ import annotations

from collections import Counter

import jax.numpy as jnp
import pytest

from jaxengine.cache.full import FullCacheSpec
from jaxengine.cache.groups import arrange
from jaxengine.cache.recurrent import RecurrentCacheSpec, StateArray

FLOAT = jnp.dtype(jnp.float32)
STATE = RecurrentCacheSpec((StateArray("state", (3,), (None,), FLOAT),))


def layers(*windows: int | None) -> tuple[FullCacheSpec, ...]:
    return tuple(FullCacheSpec(2, 8, 4, FLOAT, window) for window in windows)


@pytest.mark.parametrize("window", [None, 16])
def test_layers_that_are_alike_keep_their_own_arrays(window: int | None) -> None:
    specs = layers(window, window, window)
    found = arrange(specs)
    assert (found.arrays, found.array, found.group) == (specs, (0, 1, 2), (0, 0, 0))
    assert found.groups.windows == (window,)


def test_as_many_with_a_window_as_without() -> None:
    found = arrange(layers(8, None, 8, None))
    assert (len(found.arrays), found.array, found.group) == (2, (0, 0, 1, 1), (0, 1, 0, 1))
    assert found.groups.windows == (8, None)
    assert {array.window for array in found.arrays} == {None}  # an array serves both


def test_five_with_a_window_to_one_without() -> None:
    windows = ([512] * 5 + [None]) * 10 + [512, 512]
    found = arrange(layers(*windows))
    assert sorted(map(str, found.groups.windows)) == ["512"] * 4 + ["None"]
    assert len(found.arrays) == 13  # 65 places for 62 layers
    assert max(Counter(zip(found.array, found.group, strict=True)).values()) == 1
    for group, window in zip(found.group, windows, strict=True):
        assert found.groups.windows[group] == window


def test_states_have_arrays_of_their_own() -> None:
    one, two = layers(None, 8)
    found = arrange((STATE, one, STATE, two))
    assert [found.arrays[i] for i in found.array] == [STATE, one, STATE, one]
    assert len(found.arrays) == 3
    assert found.group == (0, 0, 0, 1)
    assert arrange((STATE, STATE)).groups.windows == (None,)


def test_pages_of_several_sizes_are_kept_whole() -> None:
    specs = (*layers(8), FullCacheSpec(4, 8, 4, FLOAT))
    assert arrange(specs).arrays == specs
    assert arrange(specs).groups.windows == (None,)
