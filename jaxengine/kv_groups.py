"""Which layers of a model share page numbers: groups of layers that see the same keys.

A layer with a window needs the pages of its last keys alone, so its pages come and go apart from those of layers that
see everything. Layers of one group have their pages in common: each place of a sequence (`page_size` positions) has one
page number a group, side by side in Request.pages and in the page table (`place * count + group`). cache/groups.py
makes the groups from a model's caches; the scheduler, the prefix cache and the memory plan ask here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class KvGroups:
    """One window a group: keys that a token sees, itself included; None: all."""

    windows: tuple[int | None, ...] = (None,)

    @property
    def count(self) -> int:
        return len(self.windows)

    @property
    def slides(self) -> bool:
        """Whether pages are given back before their request ends."""
        return any(window is not None for window in self.windows)

    def first_place(self, group: int, start: int, page_size: int) -> int:
        """The first place that a token at position `start`, or a later one, sees."""
        window = self.windows[group]
        return 0 if window is None else max(0, start - window + 1) // page_size

    def most_pages(self, tokens: int, page_size: int, chunk: int) -> int:
        """Most pages that a sequence of so many tokens has at once, computed up to `chunk` tokens a step."""
        places = -(-tokens // page_size)
        visible = (window and -(-(window - 1 + min(chunk, tokens)) // page_size) + 1 for window in self.windows)
        return sum(places if most is None else min(places, most) for most in visible)

    def longest(self, pages: int, page_size: int, chunk: int, at_most: int) -> int:
        """Most tokens of a sequence that so many pages hold, a multiple of the page size, or at_most."""
        low, high = 0, -(-at_most // page_size) + 1  # places that fit, and that do not
        while low + 1 < high:
            middle = (low + high) // 2
            if self.most_pages(middle * page_size, page_size, chunk) <= pages:
                low = middle
            else:
                high = middle
        return min(low * page_size, at_most)
