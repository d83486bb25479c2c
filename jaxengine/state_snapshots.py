"""States of recurrent layers that are kept beside those of the slots, so that a prompt can go on where another was.

Pages say what attention needs of a prefix; what a recurrent layer knows of it is one state, and that of another length
is of no use. So states are copied at a few ends of full pages: at the last one of a prompt, and where a prompt leaves
those before it (found in the prefix cache's pages, but without a state: who comes third goes on from there). Prompts
are cut there. A kept state is found by the hash of the page before it, like that page; it is exact.

The scheduler asks it; `runner.py` makes the copies that a plan's rows name, before the step and behind it. The least
recently used ones are replaced.
"""

from __future__ import annotations

from collections import OrderedDict

from jaxengine.prefix_cache import PrefixCache
from jaxengine.request import Request

LEAST_TOKENS = 256  # fewer are computed again in less time than a cut prompt's next step takes


class StateSnapshots:
    """`count` kept states, by the hash of all tokens before them."""

    def __init__(self, cache: PrefixCache, count: int, least_tokens: int = LEAST_TOKENS) -> None:
        self.cache, self.least_tokens = cache, least_tokens
        self._of: OrderedDict[bytes, int] = OrderedDict()  # the least recently used first
        self._free = list(range(count - 1, -1, -1))
        self._saved: list[tuple[bytes, int]] = []  # by the plan that is being made: its own rows cannot go on from them

    @property
    def num_kept(self) -> int:
        return len(self._of) + len(self._saved)

    def publish(self) -> None:
        """A new plan begins: what the one before saves can be found."""
        self._of.update(self._saved)
        self._saved.clear()

    def resume(self, request: Request) -> list[int]:
        """The pages of the longest prefix that has both pages and a state; sets request.resumed_from to the state (None
        without one), and request.save_at to where its own are to be kept."""
        cache, size = self.cache, self.cache.page_size
        cache.hash_pages(request)
        digests, pages = request.page_hashes, cache.match(request)
        shared = place = len(pages) // cache.groups.count
        while place:
            place = next((end for end in range(place, 0, -1) if digests[end - 1] in self._of), 0)
            pages = cache.match(request, place)
            if len(pages) == place * cache.groups.count:
                break
            place = len(pages) // cache.groups.count  # a window's pages are gone
        request.resumed_from = None
        if place:
            request.resumed_from = self._of[digests[place - 1]]
            self._of.move_to_end(digests[place - 1])
        request.save_at, before = [], place * size
        for end in (shared * size, (len(request.token_ids) - 1) // size * size):
            if end - before >= self.least_tokens:
                request.save_at.append(end)
                before = end
        return pages

    def save(self, request: Request, position: int) -> int | None:
        """Where to keep the state behind this many tokens; None where it is kept already, or the plan has taken all."""
        digest = request.page_hashes[position // self.cache.page_size - 1]
        if digest in self._of or any(digest == saved for saved, _ in self._saved):
            return None
        if self._free:
            index = self._free.pop()
        elif self._of:
            _, index = self._of.popitem(last=False)
        else:
            return None
        self._saved.append((digest, index))
        return index

    def forget(self) -> None:
        """Nothing can be found any more."""
        self.publish()
        self._free += self._of.values()
        self._of.clear()
