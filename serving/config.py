"""Every knob of the server, documented where it is declared: ServerConfig.

`jaxengine serve` makes its options and reads its --config file from these fields, beside the engine's own. The names
are vLLM's where vLLM has the thing.
"""

from __future__ import annotations

import dataclasses
import difflib
import ssl
from collections.abc import Iterable
from typing import Any

import msgspec

from jaxengine.config import EngineConfig, knob
from jaxengine.request import InvalidRequest

GROUPS = ("Network", "Access", "Limits", "Answers", "Chat", "Observation")


@dataclasses.dataclass(frozen=True)
class ServerConfig:
    """What the user asked of the server. Raises InvalidRequest (a ValueError) naming the field that cannot be right."""

    host: str = knob("0.0.0.0", help="Address to listen on.", group="Network")
    port: int = knob(8000, help="Port to listen on; 0 takes any free one.", group="Network")
    uds: str | None = knob(None, help="Unix domain socket to listen on, in place of host and port.", group="Network")
    ssl_keyfile: str | None = knob(None, help="Private key, for HTTPS.", group="Network")
    ssl_certfile: str | None = knob(None, help="Certificate, for HTTPS.", group="Network")
    ssl_ca_certs: str | None = knob(None, help="Authorities whose client certificates are accepted.", group="Network")
    ssl_cert_reqs: int = knob(
        int(ssl.CERT_NONE),
        help="Client certificates: 0 not asked for, 1 checked when sent, 2 required.",
        group="Network",
        choices=(0, 1, 2),
    )
    root_path: str = knob("", help="Path under which a proxy shows this server.", group="Network")
    timeout_keep_alive: int = knob(
        5, help="Seconds after which a connection without a request is closed.", group="Network"
    )
    api_server_count: int = knob(1, help="Processes that answer HTTP; all of them share one engine.", group="Network")
    engine_timeout: float = knob(
        60.0,
        help="Seconds without a sign of life after which the engine's process is replaced by another, in which running "
        "requests go on; 0: never.",
        group="Network",
    )
    shutdown_timeout: float = knob(
        30.0, help="Seconds that running requests get to finish after SIGTERM; then they are aborted.", group="Network"
    )

    api_key: tuple[str, ...] = knob(
        (),
        help="Key that clients must send (`Authorization: Bearer …` or `x-api-key`); may be given several times. "
        "Guards everything but the health endpoints.",
        group="Access",
    )
    allowed_origins: tuple[str, ...] = knob(
        (), help="Web sites whose scripts may call this server (CORS); `*`: all.", group="Access"
    )
    allow_credentials: bool = knob(False, help="Let those scripts send cookies.", group="Access")
    disable_fastapi_docs: bool = knob(False, help="No /docs and no /openapi.json.", group="Access")
    server_dev_mode: bool = knob(False, help="Adds /reset_prefix_cache.", group="Access")

    max_queue_len: int | None = knob(
        8192,
        help="Most sequences that wait for a place among those that run, in all HTTP processes together; more are "
        "answered with 429.",
        group="Limits",
    )
    queue_timeout: float | None = knob(
        None, help="Seconds that a request waits for its first token at most; then it gets a 429.", group="Limits"
    )
    request_timeout: float | None = knob(
        None,
        help="Seconds that a request may take from its arrival, its place in the queue included; then it is ended and "
        "answered with a 408. Requests may ask for less (`timeout`).",
        group="Limits",
    )
    max_body_size: int = knob(32 << 20, help="Largest request in bytes.", group="Limits")
    max_sequences_per_request: int = knob(
        2048, help="Most sequences of one request: prompts times n, or beams.", group="Limits"
    )
    responses_store_size: int | None = knob(
        None,
        help="Most responses of /v1/responses that are kept for later requests; 0: none. Default: 1024, or none with "
        "several --api-server-count, as each process would know its own alone.",
        group="Limits",
    )
    responses_store_bytes: int = knob(256 << 20, help="Most bytes of JSON that they may have.", group="Limits")
    responses_store_age: float = knob(86400.0, help="Seconds that they are kept at most.", group="Limits")

    served_model_name: tuple[str, ...] = knob(
        (), help="Names that clients may ask for; the first one is shown. Default: the model's.", group="Answers"
    )
    enable_prompt_tokens_details: bool = knob(True, help="Usage says how many tokens were cached.", group="Answers")
    enable_force_include_usage: bool = knob(
        False, help="Every stream ends with its usage, whether it was asked for or not.", group="Answers"
    )
    return_tokens_as_token_ids: bool = knob(
        False, help="Tokens of logprobs are shown as `token_id:N`.", group="Answers"
    )
    enable_request_id_headers: bool = knob(True, help="Answers carry an X-Request-Id.", group="Answers")

    chat_template: str | None = knob(None, help="Jinja source or a file of it, in place of the model's.", group="Chat")
    default_chat_template_kwargs: dict[str, Any] = knob(
        {}, help="Variables of the chat template that requests may replace (JSON).", group="Chat"
    )
    trust_request_chat_template: bool = knob(False, help="Requests may bring a chat template.", group="Chat")
    response_role: str = knob("assistant", help="Role of the messages that are made.", group="Chat")
    enable_auto_tool_choice: bool = knob(
        True, help="The model decides whether it calls tools, where its calls can be read.", group="Chat"
    )
    tool_call_parser: str | None = knob(
        None, help="How the model writes tool calls. Default: found from its chat template.", group="Chat"
    )
    reasoning_parser: str | None = knob(
        None, help="How the model writes its reasoning. Default: found from its chat template.", group="Chat"
    )
    exclude_tools_when_tool_choice_none: bool = knob(
        False, help="The model does not see the tools of a request with tool_choice `none`.", group="Chat"
    )

    log_level: str = knob(
        "info", help="Least severe messages shown.", group="Observation", choices=("debug", "info", "warning", "error")
    )
    log_format: str = knob("human", help="`json`: one object a line.", group="Observation", choices=("human", "json"))
    enable_log_requests: bool = knob(
        True, help="One line for each request: its id, status and time; never its text.", group="Observation"
    )
    disable_log_stats: bool = knob(False, help="No periodic line of throughput and queues.", group="Observation")
    log_stats_interval: float = knob(10.0, help="Seconds between those lines.", group="Observation")
    otlp_traces_endpoint: str | None = knob(
        None,
        help="OpenTelemetry collector that gets a span for each request: `http://HOST:4317` for gRPC, "
        "`http://HOST:4318/v1/traces` for HTTP. Needs `jaxengine[otel]`.",
        group="Observation",
    )
    metrics_prefix: str = knob(
        "jaxengine",
        help="What the names of /metrics begin with; `vllm` suits dashboards made for it.",
        group="Observation",
        choices=("jaxengine", "vllm", "both"),
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            choices, value = field.metadata["choices"], getattr(self, field.name)
            if choices and value not in choices:
                raise InvalidRequest(field.name, f"got {value!r}", f"use one of {', '.join(map(str, choices))}")
        if not 0 <= self.port < 65536:
            raise InvalidRequest("port", f"got {self.port}", "use a number from 0 to 65535")
        if bool(self.ssl_keyfile) != bool(self.ssl_certfile):
            raise InvalidRequest("ssl_keyfile", "a key and a certificate belong together", "give both or neither")
        if self.ssl_cert_reqs and not self.ssl_ca_certs:
            raise InvalidRequest("ssl_cert_reqs", "no certificate could be checked", "give ssl_ca_certs too")
        if self.ssl_ca_certs and not self.ssl_certfile:
            raise InvalidRequest("ssl_ca_certs", "there is no HTTPS", "give ssl_certfile and ssl_keyfile too")
        if not all(self.api_key) or any(not key.isascii() for key in self.api_key):
            raise InvalidRequest("api_key", "a key is empty or not ASCII", "use printable ASCII characters")
        if self.api_server_count > 1 and self.responses_store_size:
            problem = "with several --api-server-count a response would be found by one process and not by another"
            raise InvalidRequest("responses_store_size", problem, "use 0, or one process")
        for name in ("shutdown_timeout", "timeout_keep_alive", "max_queue_len", "responses_store_size"):
            _at_least(name, getattr(self, name), 0)
        for name in ("queue_timeout", "request_timeout", "log_stats_interval", "responses_store_age"):
            _at_least(name, getattr(self, name), 1e-3)
        for name in ("max_body_size", "max_sequences_per_request", "api_server_count", "responses_store_bytes"):
            _at_least(name, getattr(self, name), 1)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        return tuple(field.name for field in dataclasses.fields(cls))

    @classmethod
    def from_arguments(cls, **arguments: Any) -> ServerConfig:
        """From values of a file or of the command line, whose types are checked here."""
        check_names(arguments, cls.names())
        try:
            return msgspec.convert(arguments, cls)
        except msgspec.ValidationError as error:
            problem, _, place = str(error).partition(" - at `$.")
            raise InvalidRequest(place.rstrip("`") or "server", problem, "see `jaxengine serve --help`") from error


def split_arguments(arguments: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the server's, the engine's) of arguments under one roof, such as a --config file's."""
    check_names(arguments, {*ServerConfig.names(), *EngineConfig.names()})
    server = {name: value for name, value in arguments.items() if name in ServerConfig.names()}
    return server, {name: value for name, value in arguments.items() if name not in server}


def check_names(given: Iterable[str], known: Iterable[str]) -> None:
    known = list(known)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else "see `jaxengine serve --help`"
            raise InvalidRequest(name, "there is no such argument", hint)


def _at_least(name: str, value: float | None, least: float) -> None:
    if value is not None and value < least:
        raise InvalidRequest(name, f"got {value!r}", f"use a number of at least {least:g}")
