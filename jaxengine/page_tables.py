"""The pages of each sequence: what it reserves when it comes in, takes as it grows, and gives back behind its windows.

The scheduler calls it. A sequence computes its tokens in order, so a layer with a window never again reads what lies
before the window of the next token; those pages are free at once, because the device runs steps in order. Layers that
see everything get their pages for the whole prompt at admission, so that a prompt once begun is not thrown out for lack
of them; layers with a window get theirs chunk by chunk.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxengine.kv_groups import KvGroups
from jaxengine.pages import NULL_PAGE, PagePool
from jaxengine.request import Request


class PageTables:
    """Keeps Request.pages, .covered and .slid, for sequences computed up to `chunk` tokens a step."""

    def __init__(self, pool: PagePool, page_size: int, groups: KvGroups, chunk: int) -> None:
        self.pool, self.page_size, self.groups, self.chunk = pool, page_size, groups, chunk
        self.slides = groups.slides

    def begin(self, request: Request, shared: list[int], spare: float) -> bool:
        """Give a request that comes in the pages it found in the prefix cache, and room for the rest of its tokens.

        False, and nothing done, where it would leave fewer than `spare` pages. shared: one a group for each place,
        NULL_PAGE where nobody will look.
        """
        pool, count, tokens = self.pool, self.groups.count, len(request.token_ids)
        held = [page for page in shared if page != NULL_PAGE] if self.slides else shared
        wanted = self.groups.most_pages(tokens, self.page_size, self.chunk) - len(held)
        if wanted + spare > pool.num_free - pool.num_unused(held):
            return False
        pool.touch(held)
        places, found = -(-tokens // self.page_size), len(shared) // count
        request.covered = found
        if not self.slides:
            request.pages = shared + pool.allocate(wanted)
            request.covered = places
            return True
        request.slid = [0] * count
        request.pages = shared + [NULL_PAGE] * (places - found) * count
        whole = [group for group, window in enumerate(self.groups.windows) if window is None]
        for group in whole:
            request.pages[found * count + group :: count] = pool.allocate(places - found)
        return True

    def missing(self, request: Request, start: int, end: int) -> Sequence[int]:
        """Where pages lack for the tokens from start to end, as indices of request.pages and the page table.

        What no token from `start` on will see is given back first.
        """
        pages, size = request.pages, self.page_size
        places = -(-end // size)
        if not self.slides:
            return range(len(pages), places)
        count = self.groups.count
        self._slide(request, start)
        pages += [NULL_PAGE] * (places * count - len(pages))
        return [
            place * count + group
            for place in range(request.covered, places)
            for group in range(count)
            if place >= request.slid[group] and pages[place * count + group] == NULL_PAGE
        ]

    def fill(self, request: Request, missing: Sequence[int], end: int) -> list[int]:
        """Take pages for them; the caller has checked the pool."""
        taken, pages = self.pool.allocate(len(missing)), request.pages
        request.covered = max(request.covered, -(-end // self.page_size))
        if self.slides:
            for index, page in zip(missing, taken, strict=True):
                pages[index] = page
        else:
            pages.extend(taken)
        return taken

    def give_up(self, request: Request) -> None:
        """Everything goes back to the pool."""
        self.pool.free([page for page in request.pages if page != NULL_PAGE] if self.slides else request.pages)
        request.pages, request.covered = [], 0

    def _slide(self, request: Request, start: int) -> None:
        pages, count = request.pages, self.groups.count
        for group, window in enumerate(self.groups.windows):
            if window is None:
                continue
            first = self.groups.first_place(group, start, self.page_size)
            indices = range(request.slid[group] * count + group, min(first * count, len(pages)), count)
            self.pool.free([pages[index] for index in indices if pages[index] != NULL_PAGE])
            for index in indices:
                pages[index] = NULL_PAGE
            request.slid[group] = max(first, request.slid[group])
