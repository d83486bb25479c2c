"""A span for each request, sent to an OpenTelemetry collector: what it asked for, and how long its parts took.

Only `--otlp-traces-endpoint` has this imported. `front.py` says to which trace of the client a request belongs,
`generation.py` and `beams.py` watch what becomes of it. The names are vLLM's; no text and no token is in a span.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from jaxengine.metrics import RequestMetrics
from jaxengine.request import InvalidRequest, RequestOutput
from serving.generation import Job, OneStream

PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")  # variables of the SDK
LAST_SECONDS = 5.0  # that the last spans get to reach the collector


class Traces:
    """The spans of one HTTP process. `provider` decides about sampling, and where they go."""

    def __init__(self, provider: TracerProvider, model: str) -> None:
        self.provider, self.model = provider, model
        self._tracer = provider.get_tracer("jaxengine")
        self._propagator = TraceContextTextMapPropagator()
        self._caller: ContextVar[Context | None] = ContextVar("caller", default=None)

    def continue_from(self, headers: Mapping[bytes, bytes]) -> None:
        """What this task does is part of the trace that the client's `traceparent` names."""
        if b"traceparent" in headers:
            names = (b"traceparent", b"tracestate")
            carrier = {name.decode(): headers[name].decode("latin-1") for name in names if name in headers}
            self._caller.set(self._propagator.extract(carrier))

    async def watch(self, stream: OneStream, job: Job) -> AsyncGenerator[RequestOutput, None]:
        """The same stream; a span tells of it when it has ended."""
        with self.request(job) as seen:
            async with aclosing(stream):
                async for output in stream:
                    seen.add(output)
                    yield output

    @contextmanager
    def request(self, job: Job) -> Iterator[Seen]:
        """The block's outputs, of one prompt, belong into `Seen`; its end is theirs."""
        seen, failure = Seen(job), None
        try:
            yield seen
        except Exception as error:
            failure = error
            raise
        finally:
            span = self._tracer.start_span(
                "llm_request",
                self._caller.get(),
                SpanKind.SERVER,
                {"gen_ai.response.model": self.model, **seen.attributes()},
                start_time=int(job.arrival_time * 1e9),
            )
            if failure is not None:  # whose message may quote the request
                span.set_attribute("error.type", type(failure).__name__)
                span.set_status(StatusCode.ERROR)
            span.end()

    def close(self) -> None:
        """Send what is left, unless the collector cannot be reached."""
        thread = threading.Thread(target=self.provider.shutdown, daemon=True)
        thread.start()
        thread.join(LAST_SECONDS)


@dataclass
class Seen:
    """What is known of a request so far."""

    job: Job
    prompt_tokens: int | None = None
    completion_tokens: int = 0
    times: RequestMetrics | None = None
    reasons: dict[int, str] = field(default_factory=dict)  # sequence → why it ended

    def add(self, output: RequestOutput) -> None:
        self.prompt_tokens, self.times = len(output.prompt_token_ids or ()), output.metrics
        for completion in output.outputs:
            self.completion_tokens += len(completion.token_ids)
            if completion.finish_reason is not None:
                self.reasons[completion.index] = completion.finish_reason

    def attributes(self) -> dict[str, Any]:
        """Without what is not known: seconds are missing where a request did not get so far."""
        params, times = self.job.params, self.times
        most = params.max_tokens if self.job.beams is None else self.job.beams.max_tokens
        known: dict[str, Any] = {
            "gen_ai.request.id": self.job.request_id,
            "gen_ai.request.n": params.n,
            "gen_ai.request.max_tokens": most,
            "gen_ai.request.temperature": params.temperature,
            "gen_ai.request.top_p": params.top_p,
            "gen_ai.usage.prompt_tokens": self.prompt_tokens,
            "gen_ai.usage.completion_tokens": self.completion_tokens,
            "gen_ai.response.finish_reasons": [self.reasons.get(place, "abort") for place in range(params.n)],
            "gen_ai.latency.e2e": time.time() - self.job.arrival_time,
        }
        if times is not None:
            arrival, scheduled = times.arrival_time, times.first_scheduled_time
            first, last = times.first_token_time, times.last_token_time
            known |= {
                "gen_ai.latency.time_in_queue": _between(arrival, scheduled),
                "gen_ai.latency.time_to_first_token": _between(arrival, first),
                "gen_ai.latency.time_in_model_prefill": _between(scheduled, first),
                "gen_ai.latency.time_in_model_decode": _between(first, last),
                "gen_ai.latency.time_in_model_inference": _between(scheduled, last),
            }
        return {name: value for name, value in known.items() if value is not None}


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else end - start


def open_traces(endpoint: str, *, model: str, version: str) -> Traces:
    """To the collector at `endpoint`. The SDK's own variables (OTEL_…) say the rest: names, headers, sampling."""
    resource = Resource.create({"service.version": version})
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "jaxengine"}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter(endpoint)(endpoint)))
    return Traces(provider, model)


def exporter(endpoint: str) -> Callable[[str], SpanExporter]:
    """Of the protocol that a variable names, or else that the address tells: one of gRPC has no path.

    Raises InvalidRequest for what cannot be such an address.
    """
    place = urlsplit(endpoint)
    if place.scheme not in ("http", "https", "grpc") or not place.hostname:
        hint = "use http://HOST:4317 (gRPC) or http://HOST:4318/v1/traces (HTTP)"
        raise InvalidRequest("otlp_traces_endpoint", f"got {endpoint!r}", hint)
    named = next((os.environ[name] for name in PROTOCOLS if os.environ.get(name)), None)
    protocol = named or ("http/protobuf" if place.path.strip("/") else "grpc")
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as Grpc

        return Grpc
    if protocol == "http/protobuf":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as Http

        return Http
    raise InvalidRequest(PROTOCOLS[0], f"got {protocol!r}", "use grpc or http/protobuf")
