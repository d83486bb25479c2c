"""/metrics as Prometheus reads it, and the other endpoints for whoever runs the server."""

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse
from served_model import wait_until

from jaxengine.metrics import TTFT_BUCKETS


def families(served):
    return {family.name: family for family in parse(served.http.get("/metrics").text)}


@pytest.mark.parametrize("prefix", ["jaxengine", "vllm", "both"])
def test_what_is_counted(serve, prefix):
    served = serve(metrics_prefix=prefix)
    served.post("/v1/completions", prompt="The capital", max_tokens=4, ignore_eos=True)
    wait_until(lambda: served.http_server.server.admission.requests == 0)
    found = families(served)
    for name in ("jaxengine", "vllm"):
        assert (f"{name}:generation_tokens" in found) == (prefix in (name, "both"))
    name = "vllm" if prefix == "vllm" else "jaxengine"
    tokens, first = found[f"{name}:generation_tokens"], found[f"{name}:time_to_first_token_seconds"]
    assert (tokens.type, tokens.samples[0].name) == ("counter", f"{name}:generation_tokens_total")
    assert tokens.samples[0].labels == {"model_name": "demo", "engine": "0"}
    assert tokens.samples[0].value >= 4
    bounds = [float(sample.labels["le"]) for sample in first.samples if sample.name.endswith("_bucket")]
    assert bounds == [*TTFT_BUCKETS, float("inf")]
    reasons = {sample.labels["finished_reason"] for sample in found[f"{name}:request_success"].samples}
    assert {"stop", "length", "abort"} <= reasons
    assert found[f"{name}:num_requests_running"].samples[0].value == 0


def test_nothing_runs_after_an_end_between_two_steps(served):
    """A stop string and a client that leaves end the last request there: no step follows that could tell."""
    gauges = served.engine.metrics.num_requests_running, served.engine.metrics.kv_cache_usage_perc
    for body in ({"stop": ["a"]}, {"stream": True}):
        asked = {"prompt": "The capital of", "max_tokens": 200, "ignore_eos": True, **body}
        with served.http.stream("POST", "/v1/completions", json=asked) as answer:
            next(answer.iter_lines())
        wait_until(lambda: [gauge.value for gauge in gauges] == [0, 0], 5)


def test_every_number_of_the_engine_is_there(served):
    found = families(served)
    for metric in served.engine.metrics.values():
        assert metric.name.replace("vllm:", "jaxengine:") in found
    assert found["jaxengine:server_load"].samples[0].value == 0
    assert "process_resident_memory_bytes" in found


def test_answers_are_counted_by_route(served):
    for path in ("/nothing", "/neither", "/version"):
        served.http.get(path)
    counted = {tuple(s.labels.values()): s.value for s in families(served)["http_requests"].samples}
    assert counted["other", "GET", "404"] == 2
    assert counted["/version", "GET", "200"] == 1


def test_operations(served, serve):
    assert served.http.get("/version").json()["version"]
    assert served.http.post("/ping").status_code == 200
    assert served.http.post("/reset_prefix_cache").status_code == 404
    developer = serve(server_dev_mode=True)
    developer.post("/v1/completions", prompt="a b c d e f g h i j k l m n o p q r s t u v w", max_tokens=1)
    wait_until(lambda: developer.http.post("/reset_prefix_cache").json() == {"success": True})


def test_the_document(served, serve):
    document = served.http.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    assert {"/v1/completions", "/v1/chat/completions", "/v1/models", "/tokenize", "/health"} <= document["paths"].keys()
    assert schemas["ChatRequest"]["additionalProperties"] is False
    assert schemas["ChatRequest"]["properties"]["temperature"]["minimum"] == 0
    references = served.http.get("/openapi.json").text.split('"#/components/schemas/')[1:]
    assert {name.partition('"')[0] for name in references} <= schemas.keys()
    assert served.http.get("/docs").status_code == 200
    assert serve(disable_fastapi_docs=True).http.get("/openapi.json").status_code == 404
