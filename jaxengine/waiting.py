"""The line of requests that wait for a slot and pages, those that were preempted included.

The scheduler alone uses it. A heap by `Request.order`: a preempted request comes back with its old order and so to the
front. Whoever finishes while waiting is dropped when it would come up, so nothing here grows with the line but log n.
"""

from __future__ import annotations

import heapq

from jaxengine.request import Request, Status


class WaitingLine:
    """Requests by their order; `len()` counts the live ones."""

    def __init__(self) -> None:
        self._heap: list[tuple[tuple[float, ...], Request]] = []  # orders are unique: requests are never compared
        self._live = 0

    def __len__(self) -> int:
        return self._live

    def push(self, request: Request) -> None:
        heapq.heappush(self._heap, (request.order, request))
        self._live += 1

    def first(self) -> Request | None:
        """Who runs next, still in line."""
        heap = self._heap
        while heap and heap[0][1].status is not Status.WAITING:
            heapq.heappop(heap)
        return heap[0][1] if heap else None

    def pop(self) -> Request:
        """Take the one that `first` has just shown."""
        self._live -= 1
        return heapq.heappop(self._heap)[1]

    def left(self) -> None:
        """A request in line has just finished: it is dropped later, all such at once when they are the most."""
        self._live -= 1
        if len(self._heap) > 2 * self._live + 64:
            self._heap = [entry for entry in self._heap if entry[1].status is Status.WAITING]
            heapq.heapify(self._heap)
