"""Histograms count as Prometheus does, and every metric has vLLM's name."""

from jaxengine.metrics import Histogram, Metrics, one_two_five


def test_one_two_five():
    assert one_two_five(100) == (1, 2, 5, 10, 20, 50, 100)
    assert one_two_five(49) == (1, 2, 5, 10, 20)


def test_histogram():
    histogram = Histogram("h", "help", (0.1, 1.0, 2.0))
    for value in (0.05, 0.1, 0.5, 2.0, 9.0):
        histogram.observe(value)
    assert histogram.buckets == {"0.1": 2, "1": 3, "2": 4, "+Inf": 5}
    assert (histogram.count, histogram.sum) == (5, 11.65)


def test_names_are_unique_up_to_labels():
    metrics = list(Metrics(4096).values())
    names = [(metric.name, tuple(metric.labels.items())) for metric in metrics]
    assert len(names) == len(set(names))
    assert all(metric.name.startswith("vllm:") and metric.help for metric in metrics)
    assert ("vllm:request_success", (("finished_reason", "stop"),)) in names
    (histogram,) = [metric for metric in metrics if metric.name == "vllm:request_prompt_tokens"]
    assert histogram.bounds[-1] == 2000
