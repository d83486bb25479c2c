"""How many requests the server takes on at once. `generation.py` enters every request here.

A bounded queue answers early: what would wait behind `max_queue_len` others gets a 429, and those before it keep their
latency. Where several processes answer HTTP they count together: the queue is the engine's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from serving.engine_protocol import ServedEngine
from serving.errors import Refusal
from serving.shared_counts import SharedCounts

WINDOW = 1.0  # seconds over which the rate of finished sequences is taken
LONGEST_RETRY = 60  # seconds


class Admission:
    """Counts sequences from the moment their request is read until it ends."""

    def __init__(self, engine: ServedEngine, max_queue_len: int | None, counts: SharedCounts) -> None:
        """counts: of the sequences that each process has let in."""
        self.engine, self.max_queue_len, self.counts = engine, max_queue_len, counts
        self.requests = 0
        self.draining = False  # the server is about to end
        self._rate = 0.0  # sequences that finish in a second, as far as they are this process's
        self._finished, self._since = 0, time.monotonic()

    @property
    def waiting(self) -> int:
        """Sequences without a place in the running batch, as far as one knows between two steps."""
        metrics = self.engine.metrics
        full = metrics.num_requests_waiting.value > 0  # pages or tokens may run out before max_num_seqs does
        places = metrics.num_requests_running.value if full else self.engine.max_num_seqs
        return max(self.counts.total - int(places), 0)

    def check(self) -> None:
        """Raises Refusal (429 when the queue is full, 503 when the server is ending). Endpoints ask before they read
        a request: the work on those that are refused is taken from the others."""
        if self.draining:
            raise Refusal(503, "the server is shutting down", retry_after=1)
        waiting = self.waiting
        if self.max_queue_len is not None and self.counts.total and waiting + 1 > self.max_queue_len:
            raise self.overloaded(f"{waiting} sequences wait already")

    @contextmanager
    def enter(self, sequences: int) -> Iterator[None]:
        """Raises Refusal as `check` does."""
        self.check()
        self.counts.own += sequences
        self.requests += 1
        try:
            yield
        finally:
            self.counts.own -= sequences
            self.requests -= 1
            self._count(sequences)

    def overloaded(self, why: str) -> Refusal:
        return Refusal(429, f"the server is overloaded: {why}; try again later", retry_after=self._retry_after())

    def _count(self, sequences: int) -> None:
        self._finished += sequences
        if (passed := time.monotonic() - self._since) >= WINDOW:
            self._rate = self._finished / passed
            self._finished, self._since = 0, time.monotonic()

    def _retry_after(self) -> int:
        """Seconds until half of the line has gone, at the present speed."""
        if not self._rate:
            return 1
        rate = self._rate * len(self.counts)
        return min(max(math.ceil(self.waiting / rate / 2), 1), LONGEST_RETRY)
