"""The line of requests that wait for a slot and pages, those that were preempted included.

The scheduler alone uses it. Ordered by `Request.order`: a preempted request comes back with its old order and so to the
front. Whoever finishes while waiting is dropped when it would come up, or when such are the most.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

from jaxengine.request import Request, Status

Entry = tuple[tuple[float, ...], Request]  # orders are unique: requests are never compared


class WaitingLine:
    """Requests by their order; `len()` counts the live ones."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []  # the first in line at the end, under its order backwards
        self._live = 0

    def __len__(self) -> int:
        return self._live

    def push(self, request: Request) -> None:
        insort(self._entries, _entry(request))
        self._live += 1

    def first(self) -> Request | None:
        """Who runs next, still in line."""
        entries = self._entries
        while entries and entries[-1][1].status is not Status.WAITING:
            entries.pop()
        return entries[-1][1] if entries else None

    def behind(self, first: Request) -> Iterator[Request]:
        """Those behind the first one, in order. The line must not change meanwhile."""
        for _, request in reversed(self._entries):
            if request.status is Status.WAITING and request is not first:
                yield request

    def take(self, request: Request) -> None:
        """Let one out who is to run."""
        del self._entries[bisect_left(self._entries, _entry(request))]
        self._live -= 1

    def left(self) -> None:
        """A request in line has just finished: it is dropped later, all such at once when they are the most."""
        self._live -= 1
        if len(self._entries) > 2 * self._live + 64:
            self._entries = [entry for entry in self._entries if entry[1].status is Status.WAITING]


def _entry(request: Request) -> Entry:
    return tuple(-part for part in request.order), request
