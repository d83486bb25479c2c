"""How the caches of a model's layers lie on the device: which layers share an array, and which share page numbers.

Layers that see the same keys have page numbers in common: a page is then one place in each of their arrays. Where the
windows of layers differ (a few that see everything between many with a window), layers are put into groups of equal
size, and the groups take their pages from the same arrays: layer j of each group lives in array j. So a page of any
group is the same piece of memory, and what one kind of layer does not need serves another.

`state.py` allocates the arrays, `step.py` says where their pages are, models ask for the place of each layer.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass

from jaxengine.cache.full import FullCacheSpec
from jaxengine.cache.spec import CacheSpec, PagedCacheSpec
from jaxengine.kv_groups import KvGroups

MOST_GROUPS = 8  # of page tables: each costs a step its share of host work


@dataclass(frozen=True)
class Arrangement:
    """Where each layer's cache is."""

    arrays: tuple[CacheSpec, ...]  # what is allocated, once each
    array: tuple[int, ...]  # of each layer
    group: tuple[int, ...]  # of each layer; layers without pages are in the first
    groups: KvGroups


@functools.lru_cache(maxsize=64)
def arrange(specs: tuple[CacheSpec, ...]) -> Arrangement:
    """specs: of the layers that keep anything, in their order."""
    windows = [spec.window if isinstance(spec, FullCacheSpec) else None for spec in specs]
    paged = [i for i, spec in enumerate(specs) if isinstance(spec, PagedCacheSpec)]
    kinds: dict[int | None, list[int]] = {}
    for i in paged:
        kinds.setdefault(windows[i], []).append(i)
    if len(kinds) < 2:
        return Arrangement(specs, tuple(range(len(specs))), (0,) * len(specs), KvGroups(tuple(kinds) or (None,)))
    if len({_without_window(specs[i]) for i in paged}) > 1:  # pages of several sizes: each layer keeps all of its own
        return Arrangement(specs, tuple(range(len(specs))), (0,) * len(specs), KvGroups())
    size = _group_size([len(layers) for layers in kinds.values()])
    place: dict[int, tuple[int, int]] = {}  # layer → array, group
    group_windows: list[int | None] = []
    for window, layers in kinds.items():
        for nth, layer in enumerate(layers):
            place[layer] = nth % size, len(group_windows) + nth // size
        group_windows += [window] * -(-len(layers) // size)
    arrays: list[CacheSpec] = [_without_window(specs[paged[0]])] * size
    for i, spec in enumerate(specs):
        if i not in place:
            place[i] = len(arrays), 0
            arrays.append(spec)
    array, group = zip(*(place[i] for i in range(len(specs))), strict=True)
    return Arrangement(tuple(arrays), array, group, KvGroups(tuple(group_windows)))


def _group_size(counts: Sequence[int]) -> int:
    """Layers of a group: as many as leave the fewest places empty, in few groups."""

    def cost(size: int) -> tuple[int, int]:
        groups = sum(-(-count // size) for count in counts)
        return groups * size, groups

    sizes = [size for size in range(1, max(counts) + 1) if cost(size)[1] <= max(MOST_GROUPS, len(counts))]
    return min(sizes, key=cost)


def _without_window(spec: CacheSpec) -> CacheSpec:
    return dataclasses.replace(spec, window=None) if isinstance(spec, FullCacheSpec) else spec
