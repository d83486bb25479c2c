"""Everybody's numbers in one client of an engine: its own, the other clients', and those of engines that died.

`engine_client.py` keeps one and hands over what the engine says twice a second.
"""

from __future__ import annotations

from jaxengine.metrics import Gauge, Metrics, Snapshot, add_snapshots


class ClientMetrics:
    """`own` is what this client counts; `total` is everybody's, and what others read."""

    def __init__(self, max_model_len: int, engine: Snapshot, others: Snapshot) -> None:
        self.own, self.total = Metrics(max_model_len), Metrics(max_model_len)
        self._engine, self._others = engine, others
        self._before: Snapshot = []  # of engines that died

    def engine_died(self) -> None:
        """What comes next is another's."""
        self._before = add_snapshots([self._before, self._engine])

    def hear(self, engine: Snapshot, others: Snapshot) -> None:
        """The engine's numbers and the sum of all other clients'."""
        self._engine, self._others = engine, others
        total = add_snapshots([self.own.snapshot(), others, self._before, engine])
        present = zip(self.total.values(), total, engine, strict=True)  # what died has no gauges any more
        self.total.load([now if isinstance(metric, Gauge) else value for metric, value, now in present])
