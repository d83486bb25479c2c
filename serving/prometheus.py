"""GET /metrics: the engine's numbers and the server's own, in Prometheus' text format.

The engine counts with plain Python numbers (jaxengine/metrics.py) under vLLM's names; a scrape reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from jaxengine.metrics import Counter, Gauge, Histogram, Metric

if TYPE_CHECKING:
    from serving.front import Front
    from serving.server import Server

__all__ = ["CONTENT_TYPE", "exposition"]

Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily
KINDS = {Counter: CounterMetricFamily, Gauge: GaugeMetricFamily, Histogram: HistogramMetricFamily}
DECLARED = "vllm:"  # what the engine's names begin with
ENGINE = "0"  # one engine a server; dashboards made for vLLM select by this label


def exposition(server: Server, front: Front) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Numbers(server, front))
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    return generate_latest(registry)


class Numbers(Collector):
    """One reading of everything."""

    def __init__(self, server: Server, front: Front) -> None:
        self.server, self.front = server, front

    def collect(self) -> Iterator[Family]:
        prefix = self.server.config.metrics_prefix
        for one in ("jaxengine", "vllm") if prefix == "both" else (prefix,):
            yield from engine_families(self.server.engine.metrics.values(), f"{one}:", self.server.name)
        requests = CounterMetricFamily("http_requests", "Answers.", labels=["handler", "method", "status"])
        for (method, route, status), count in list(self.front.answered.items()):
            requests.add_metric([route, method, str(status)], count)
        yield requests
        yield GaugeMetricFamily("http_requests_open", "Requests without a full answer.", value=self.front.open)
        admission = self.server.admission
        yield GaugeMetricFamily("jaxengine:server_load", "Requests being generated.", value=admission.requests)
        yield GaugeMetricFamily("jaxengine:server_waiting", "Sequences without a place.", value=admission.waiting)


def engine_families(metrics: Iterable[Metric], prefix: str, model_name: str) -> Iterator[Family]:
    """The engine's metrics; those of one name that differ by their labels make one family."""
    families: dict[str, Family] = {}
    for metric in metrics:
        name = prefix + metric.name.removeprefix(DECLARED)
        family = families.get(name)
        if family is None:
            labels = ["model_name", "engine", *metric.labels]
            family = families[name] = KINDS[type(metric)](name, metric.help, labels=labels)
        values = [model_name, ENGINE, *metric.labels.values()]
        if isinstance(family, HistogramMetricFamily):
            assert isinstance(metric, Histogram)
            family.add_metric(values, [(bound, count) for bound, count in metric.buckets.items()], metric.sum)
        else:
            assert isinstance(metric, Counter | Gauge)
            family.add_metric(values, metric.value)
    yield from families.values()
