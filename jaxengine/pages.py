"""The pool of pages: reference counts, and one list of free pages ordered by who should be lost first.

Used by the scheduler (allocate, touch, free) and the prefix cache (keep, drop). Pages are numbers; what they hold is
the device's business. Everything is O(1) a page: the free list is doubly linked through two lists of numbers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

NULL_PAGE = 0  # never handed out: page-table entries that mean nothing point at it


class PagePool:
    """Pages 1..num_pages-1; page 0 is the null page.

    A page with references is in use. Without any it is in the free list, from whose head pages are taken: those that
    hold nothing useful first, then kept ones (the prefix cache knows them), the longest unused first. A kept page stays
    readable until it is taken; `on_evict` is told then.
    """

    def __init__(self, num_pages: int) -> None:
        if num_pages < 2:
            raise ValueError(f"num_pages: {num_pages} leaves none beside the null page; use at least 2")
        self.num_pages = num_pages
        self.num_free = num_pages - 1
        self.on_evict: Callable[[int], None] | None = None
        self._references = [0] * num_pages  # lists: an array would make an object of each number that is read
        self._kept = bytearray(num_pages)
        # A circle through page 0: next[0] is the head, previous[0] the tail. Entries of pages in use mean nothing.
        self._next = [*range(1, num_pages), 0]
        self._previous = [num_pages - 1, *range(num_pages - 1)]

    @property
    def num_usable(self) -> int:
        return self.num_pages - 1

    @property
    def usage(self) -> float:
        """Share of the pages that are in use, 0 to 1."""
        return 1.0 - self.num_free / self.num_usable

    def allocate(self, count: int) -> list[int]:
        """Take `count` pages from the head of the free list, one reference each. The caller has checked num_free."""
        if count > self.num_free:
            raise ValueError(f"{count} pages wanted, {self.num_free} free")
        following, references, kept = self._next, self._references, self._kept
        pages = []
        page = following[0]
        for _ in range(count):
            pages.append(page)
            references[page] = 1
            page = following[page]
        following[0] = page
        self._previous[page] = 0
        self.num_free -= count
        for page in pages:
            if kept[page]:
                kept[page] = 0
                if self.on_evict is not None:
                    self.on_evict(page)
        return pages

    def touch(self, pages: Iterable[int]) -> None:
        """Add a reference to each; kept pages that were free leave the free list."""
        references, following, previous = self._references, self._next, self._previous
        for page in pages:  # `_unlink` written out: a long prompt found in the prefix cache touches a thousand pages
            count = references[page]
            if count == 0:
                before, after = previous[page], following[page]
                following[before], previous[after] = after, before
                self.num_free -= 1
            references[page] = count + 1

    def free(self, pages: Sequence[int]) -> None:
        """Drop a reference of each, the last page first, so that the tail of a sequence is lost before its head."""
        references, kept, following, previous = self._references, self._kept, self._next, self._previous
        for page in reversed(pages):
            count = references[page] - 1
            if count < 0:
                raise ValueError(f"page {page} is free already")
            references[page] = count
            if count == 0:
                before = previous[0] if kept[page] else 0
                after = following[before]
                following[before] = previous[after] = page
                previous[page], following[page] = before, after
                self.num_free += 1

    def keep(self, page: int) -> None:
        """The prefix cache knows this page (in use now): when free it is to be lost late."""
        self._kept[page] = 1

    def drop(self, page: int) -> None:
        """The prefix cache has forgotten this page: if it is free, it is the next to be taken."""
        self._kept[page] = 0
        if self._references[page] == 0:
            self._unlink(page)
            after = self._next[0]
            self._next[0] = self._previous[after] = page
            self._previous[page], self._next[page] = 0, after
            self.num_free += 1

    def num_unused(self, pages: Iterable[int]) -> int:
        """How many of them have no reference: touching them shrinks num_free by this."""
        references = self._references
        return sum(references[page] == 0 for page in pages)

    def references(self, page: int) -> int:
        return self._references[page]

    def free_pages(self) -> list[int]:
        """The free list from its head; O(num_free), for tests and reports."""
        pages, page = [], self._next[0]
        while page != 0:
            pages.append(page)
            page = self._next[page]
        return pages

    def check(self) -> None:
        """Raise AssertionError if the pool contradicts itself; O(num_pages), for tests."""
        free = self.free_pages()
        assert len(free) == len(set(free)) == self.num_free, "the free list and its length differ"
        assert NULL_PAGE not in free
        assert set(free) == {p for p in range(1, self.num_pages) if self._references[p] == 0}, "free means unreferenced"
        assert self._references[NULL_PAGE] == 0
        circle = [0, *free, 0]
        for before, after in itertools.pairwise(circle):
            assert self._next[before] == after, "broken link"
            assert self._previous[after] == before, "broken link"

    def _unlink(self, page: int) -> None:
        before, after = self._previous[page], self._next[page]
        self._next[before] = after
        self._previous[after] = before
        self.num_free -= 1
