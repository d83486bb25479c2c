"""Who comes in from the line next, and with which pages: shared ones first.

The scheduler calls it while there are slots and budget. Who waits for many pages may be passed by a few who need less.
Pages come from page_tables.py, shared ones from prefix_cache.py, or from state_snapshots.py for recurrent layers.
"""

from __future__ import annotations

from itertools import islice

from jaxengine.page_registry import PageRegistry
from jaxengine.page_tables import PageTables
from jaxengine.request import Request
from jaxengine.state_snapshots import StateSnapshots
from jaxengine.waiting import WaitingLine

LOOKED_BEHIND = 8  # requests behind one that pages lack for, of which one that is small may go first
MOST_OVERTAKING = 16  # of them in all: then nobody else comes in before that one


class Newcomers:
    """Gives pages to those that come in; the scheduler takes them out of the line."""

    def __init__(
        self, line: WaitingLine, page_tables: PageTables, registry: PageRegistry, snapshots: StateSnapshots | None
    ) -> None:
        self.line, self.page_tables, self.registry, self.snapshots = line, page_tables, registry, snapshots
        self._blocked: tuple[Request, int, int, int] | None = None  # and the pages, the running, the added by then

    def next(self, running: int, added: int, headroom: float) -> Request | None:
        """Who comes in now, with its pages: the first, or where it needs too many one of those behind that need fewer.

        It is passed by a few at most, so that it comes in as soon as those that run by then have ended. running, added:
        requests that run, and that ever came; headroom: pages that are left free for each of the running.
        """
        first, pool, spare = self.line.first(), self.page_tables.pool, running * headroom
        if first is None or _is_held(first):
            return None
        if self._blocked and self._blocked[0] is first:
            _, free, others, before = self._blocked
            if pool.num_free <= free and running >= others and added == before:
                return None  # as before: prompts are not looked up at every step
        self._blocked = None
        if self._take_pages(first, spare):
            return first
        passed = [first]
        for request in islice(self.line.behind(first), LOOKED_BEHIND):
            if passed[-1].num_overtaken >= MOST_OVERTAKING:
                break
            if request.priority == first.priority and not _is_held(request) and self._take_pages(request, spare):
                for other in passed:
                    other.num_overtaken += 1
                return request
            passed.append(request)
        self._blocked = (first, pool.num_free, running, added)
        return None

    def _take_pages(self, request: Request, spare: float) -> bool:
        """Give a waiting request pages for all of its tokens, shared ones first; False if there are too few."""
        cache = self.registry.prefix_cache
        self.registry.register_planned()
        shared: list[int] = []
        if cache.shares(request):
            shared = self.snapshots.resume(request) if self.snapshots else cache.match(request)
        if not self.page_tables.begin(request, shared, spare):
            return False
        request.num_computed_tokens = len(shared) // cache.groups.count * cache.page_size
        self.registry.begin(request)
        if request.num_preemptions == 0:
            request.num_cached_tokens = request.num_computed_tokens
            if request.params.reads_prefix_cache:
                cache.record(len(request.token_ids), request.num_cached_tokens)
        return True


def _is_held(request: Request) -> bool:
    """Whether a token on its way, which must be computed again, or a mask that is being written, keeps it from running.
    Nobody overtakes it then: it is a matter of a step."""
    return request.num_in_flight > 0 or (request.matcher is not None and request.matcher.mask is None)
