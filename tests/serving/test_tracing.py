"""Spans of requests: what they tell and do not tell, whose traces they belong to, and that they reach a collector."""

import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest
from fake_engine import FakeEngine
from served_model import Served, wait_until

from jaxengine import AsyncEngine, InvalidRequest
from serving.commands.serve import check_tracing
from serving.config import ServerConfig

pytest.importorskip("opentelemetry.sdk", reason="the extra `otel` is not installed")
pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra `otel` is not installed")

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from serving.tracing import Traces, open_traces

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
ASK = {"prompt": "a secret", "max_tokens": 5, "ignore_eos": True, "temperature": 0.5, "top_p": 0.9}
TIMES = ("time_in_queue", "time_to_first_token", "e2e", "time_in_model_prefill", "time_in_model_decode")


class Traced:
    """A server and the spans of its requests."""

    def __init__(self, engine, **knobs):
        self.exporter, self.provider = InMemorySpanExporter(), TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.served = Served(engine, Traces(self.provider, "demo"), **knobs)

    def spans(self, number=1):
        """The next ones, when there are so many."""
        wait_until(lambda: len(self.exporter.get_finished_spans()) >= number, 5)
        spans = self.exporter.get_finished_spans()
        self.exporter.clear()
        assert len(spans) == number
        return spans


@pytest.fixture(scope="module")
def traced(demo):
    traced = Traced(demo)
    yield traced
    traced.served.close()


@pytest.mark.parametrize("stream", [False, True])
def test_a_span_tells_of_its_request(traced, stream):
    before = time.time()
    headers = {"X-Request-Id": "the-id", "Authorization": "Bearer hidden"}
    answer = traced.served.http.post("/v1/completions", json=ASK | {"stream": stream, "n": 2}, headers=headers)
    assert answer.status_code == 200
    (span,) = traced.spans()
    told = dict(span.attributes)
    seconds = {name: told.pop(f"gen_ai.latency.{name}") for name in (*TIMES, "time_in_model_inference")}
    assert told == {
        "gen_ai.request.id": "cmpl-the-id",
        "gen_ai.request.n": 2,
        "gen_ai.request.max_tokens": 5,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.response.model": "demo",
        "gen_ai.response.finish_reasons": ("length", "length"),
        "gen_ai.usage.prompt_tokens": len(traced.served.engine.tokenizer.encode("a secret")),
        "gen_ai.usage.completion_tokens": 10,
    }
    assert (span.name, span.kind, span.status.status_code) == ("llm_request", SpanKind.SERVER, StatusCode.UNSET)
    assert before <= span.start_time / 1e9 <= span.end_time / 1e9 <= time.time()
    assert seconds["e2e"] <= (span.end_time - span.start_time) / 1e9
    assert 0 < seconds["time_in_queue"] < seconds["time_to_first_token"] < seconds["e2e"]
    assert seconds["time_in_model_inference"] == pytest.approx(
        seconds["time_in_model_prefill"] + seconds["time_in_model_decode"]
    )
    assert "secret" not in span.to_json()
    assert "hidden" not in span.to_json()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", ASK),
        ("/v1/completions", ASK | {"stream": True}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 2}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 2, "stream": True}),
    ],
)
def test_it_belongs_to_the_clients_trace(traced, path, body):
    assert traced.served.http.post(path, json=body, headers=PARENT).status_code == 200
    (span,) = traced.spans()
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, CALLER)


def test_requests_do_not_inherit_from_one_another(traced):
    """One connection, and the second request names no trace, or one that is none."""
    for headers in (PARENT, {}, {"traceparent": "00-zz-1-01"}):
        traced.served.http.post("/v1/completions", json=ASK, headers=headers)
    first, *others = traced.spans(3)
    assert f"{first.context.trace_id:032x}" == TRACE
    assert [span.parent for span in others] == [None, None]


def test_a_span_for_each_prompt(traced):
    traced.served.http.post("/v1/completions", json=ASK | {"prompt": ["a", "b c"]}, headers=PARENT)
    spans = traced.spans(2)
    assert {f"{span.parent.span_id:016x}" for span in spans} == {CALLER}
    assert len({span.attributes["gen_ai.usage.prompt_tokens"] for span in spans}) == 2


def test_one_for_a_whole_search(traced):
    body = {"prompt": "x", "max_tokens": 4, "use_beam_search": True, "n": 2, "ignore_eos": True}
    assert traced.served.http.post("/v1/completions", json=body, headers=PARENT).status_code == 200
    (span,) = traced.spans()
    assert f"{span.parent.span_id:016x}" == CALLER
    told = span.attributes
    assert (told["gen_ai.request.n"], told["gen_ai.request.max_tokens"]) == (2, 4)
    assert told["gen_ai.usage.completion_tokens"] == 8


def test_what_does_not_go_well(traced):
    traced.served.post("/v1/completions", **ASK | {"prompt": "a secret word " * 300})
    (span,) = traced.spans()
    assert (span.status.status_code, span.attributes["error.type"]) == (StatusCode.ERROR, "InvalidRequest")
    assert "secret" not in span.to_json()
    assert traced.served.post("/v1/completions", **ASK | {"max_tokens": 200}, timeout=0.001).status_code == 408
    (span,) = traced.spans()
    assert span.attributes["gen_ai.response.finish_reasons"] == ("abort",)


def test_an_engine_that_fails():
    fake = FakeEngine(answer="word " * 100)
    fake.scheduler, fake.fail_at = type("Scheduler", (), {"max_num_seqs": 2}), 3
    engine = AsyncEngine(fake)
    traced = Traced(engine)
    traced.served.post("/v1/completions", prompt="x", max_tokens=50, stream=True)
    (span,) = traced.spans()
    assert (span.attributes["error.type"], span.status.description) == ("EngineDeadError", None)
    assert span.attributes["gen_ai.usage.completion_tokens"] > 0
    traced.served.close()
    engine.shutdown()


def test_a_client_that_leaves(traced):
    body = ASK | {"max_tokens": 200, "stream": True}
    with traced.served.http.stream("POST", "/v1/completions", json=body) as answer:
        next(answer.iter_lines())
    (span,) = traced.spans()
    assert span.attributes["gen_ai.response.finish_reasons"] == ("abort",)
    assert span.status.status_code is StatusCode.UNSET


@pytest.fixture
def collector():
    """Takes spans over HTTP, as a collector does."""

    class Collect(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            server.got.append((self.path, dict(self.headers), ExportTraceServiceRequest.FromString(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Collect)
    server.got = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_collector_gets_them(demo, collector, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=blue")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    url = f"http://127.0.0.1:{collector.server_port}/v1/traces"
    traces = open_traces(url, model="demo", version="1.2")
    served = Served(demo, traces)
    served.http.post("/v1/completions", json=ASK, headers=PARENT)
    served.close()
    assert not collector.got  # they are sent in batches
    traces.close()
    ((path, headers, message),) = collector.got
    assert (path, headers["x-tenant"]) == ("/v1/traces", "blue")
    (resource,) = message.resource_spans
    about = {each.key: each.value.string_value for each in resource.resource.attributes}
    assert (about["service.name"], about["service.version"]) == ("jaxengine", "1.2")
    assert about["deployment.environment"] == "test"
    ((span,),) = [scope.spans for scope in resource.scope_spans]
    assert (span.name, span.trace_id.hex(), span.parent_span_id.hex()) == ("llm_request", TRACE, CALLER)
    usage = {each.key: each.value.int_value for each in span.attributes if each.key.startswith("gen_ai.usage")}
    assert usage["gen_ai.usage.completion_tokens"] == 5


def test_the_service_has_the_name_it_is_given(monkeypatch):
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    traces = open_traces("http://127.0.0.1:1/v1/traces", model="demo", version="1")
    assert traces.provider.resource.attributes["service.name"] == "mine"
    traces.close()


def test_a_collector_that_is_not_there_holds_nobody_up(demo, monkeypatch):
    monkeypatch.setattr("serving.tracing.LAST_SECONDS", 0.2)
    traces = open_traces("http://127.0.0.1:1/v1/traces", model="demo", version="1")
    served = Served(demo, traces)
    assert served.post("/v1/completions", **ASK).status_code == 200
    began = time.monotonic()
    served.close()
    traces.close()
    assert time.monotonic() - began < 4


@pytest.mark.parametrize(
    ("endpoint", "variables", "protocol"),
    [
        ("http://h:4317", {}, "grpc"),
        ("grpc://h:4317", {}, "grpc"),
        ("https://h/v1/traces", {}, "http"),
        ("http://h:4318/", {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}, "http"),
        ("http://h:4317/x", {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "grpc"),
    ],
)
def test_protocols(monkeypatch, endpoint, variables, protocol):
    from serving.tracing import exporter

    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert f".{protocol}." in exporter(endpoint).__module__


@pytest.mark.parametrize("endpoint", ["h:4317", "4317", "file:///x", "http://"])
def test_addresses_that_are_none(endpoint):
    with pytest.raises(InvalidRequest, match="otlp_traces_endpoint: got"):
        check_tracing(ServerConfig(otlp_traces_endpoint=endpoint))


def test_without_the_packages(monkeypatch):
    for name in list(sys.modules):
        if name.startswith(("opentelemetry", "serving.tracing")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    check_tracing(ServerConfig())
    with pytest.raises(InvalidRequest, match=r"pip install 'jaxengine\[otel\]'"):
        check_tracing(ServerConfig(otlp_traces_endpoint="http://h:4317"))


def test_nothing_is_imported_without_the_flag():
    script = "import sys, serving.worker, serving.commands.serve\n"
    script += "print(*{'opentelemetry.sdk', 'opentelemetry.exporter', 'serving.tracing'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


def test_servers_without_traces_do_not_ask(served):
    assert served.server.traces is None
    assert httpx.post(f"{served.url}/v1/completions", json=ASK, headers=PARENT).status_code == 200
