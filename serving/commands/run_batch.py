"""`jaxengine run-batch`: a file of requests in OpenAI's batch format, answered into another file.

The requests go through the HTTP application itself, in this process and without a network, or to a server.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Annotated, Any

import httpx
import typer

from serving.commands.remote import base_url, headers
from serving.options import with_engine_options

URLS = ("/v1/chat/completions", "/v1/completions", "/v1/responses")


@with_engine_options()
def run_batch(
    engine: dict[str, Any],
    input_file: Annotated[Path, typer.Option("--input-file", "-i", help="One request a line, as JSON.")],
    output_file: Annotated[Path, typer.Option("--output-file", "-o", help="One answer a line, as they come.")],
    model: Annotated[str | None, typer.Option("--model", "-m", help="A directory, a hub name, or `demo`.")] = None,
    served_model_name: Annotated[
        list[str] | None, typer.Option(help="What requests call the model; its own name by default.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="Ask this server, in place of a model in this process.")] = None,
    api_key: Annotated[str | None, typer.Option(help="For the server.")] = None,
    max_concurrency: Annotated[int, typer.Option(min=1, help="Most requests under way at once.")] = 512,
) -> None:
    """Answer a file of requests in OpenAI's batch format.

    jaxengine run-batch -i requests.jsonl -o answers.jsonl --model demo
    """
    if (model is None) == (url is None):
        raise typer.BadParameter("give either a --model or the --url of a server")
    if url is not None and (engine or served_model_name):
        raise typer.BadParameter("the server's model is as it is; give no engine options", param_hint="--url")

    async def run() -> tuple[int, int]:
        asked = of_server(url, api_key) if url is not None else in_process(engine | {"model": model}, served_model_name)
        async with asked as http:
            return await answer_lines(http, questions, answers, max_concurrency)

    try:
        with input_file.open(encoding="utf-8") as questions, output_file.open("w", encoding="utf-8") as answers:
            well, badly = asyncio.run(run())
    except OSError as error:
        raise ValueError(f"{error.filename}: {error.strerror}") from error
    typer.echo(f"{well} requests answered, {badly} failed: {output_file}", err=True)


@asynccontextmanager
async def of_server(url: str, api_key: str | None) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    timeout = httpx.Timeout(None, connect=60)
    async with httpx.AsyncClient(
        base_url=base_url(url), headers=headers(api_key), limits=limits, timeout=timeout
    ) as http:
        yield http


@asynccontextmanager
async def in_process(engine: dict[str, Any], names: list[str] | None) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application with an engine of its own, which ends with it."""
    from jaxengine.arguments import engine_config
    from jaxengine.async_engine import AsyncEngine
    from jaxengine.build import build_engine
    from serving.app import create_app
    from serving.config import ServerConfig
    from serving.server import Server

    config = engine_config(**engine)
    knobs = ServerConfig(
        served_model_name=tuple(names or ()), max_queue_len=None, enable_log_requests=False, disable_log_stats=True
    )
    async with AsyncEngine(build_engine(config)) as running:
        app = create_app(Server(running, knobs, model=config.model, priorities=config.scheduling_policy == "priority"))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)  # a bug is a status 500, of one request
        async with httpx.AsyncClient(transport=transport, base_url="http://batch", timeout=None) as http:
            yield http


async def answer_lines(
    http: httpx.AsyncClient, questions: Iterable[str], answers: IO[str], max_concurrency: int
) -> tuple[int, int]:
    """How many requests went well, and how many did not. Each answer is written when it is there."""
    counts = [0, 0]
    lines = ((number, line) for number, line in enumerate(questions, 1) if line.strip())

    async def work() -> None:
        for number, line in lines:  # all workers take from the same
            answer = await answer_line(http, number, line)
            answers.write(json.dumps(answer, ensure_ascii=False) + "\n")
            answers.flush()
            counts[answer["error"] is not None or answer["response"]["status_code"] >= 400] += 1

    await asyncio.gather(*(work() for _ in range(max_concurrency)))
    return counts[0], counts[1]


async def answer_line(http: httpx.AsyncClient, number: int, line: str) -> dict[str, Any]:
    """`response` has what HTTP answered, refusals as well; `error` is for lines that got no answer."""
    answer: dict[str, Any] = {"id": f"batch_req_{uuid.uuid4().hex}", "custom_id": None, "response": None, "error": None}
    try:
        question = json.loads(line)
        answer["custom_id"] = question.get("custom_id") if isinstance(question, dict) else None
        path, body = read_question(question)
        said = await http.post(path, json=body)
        answer["response"] = {
            "status_code": said.status_code,
            "request_id": said.headers.get("x-request-id") or uuid.uuid4().hex,
            "body": said.json(),
        }
    except httpx.HTTPError as error:
        answer["error"] = {"code": "not_answered", "message": f"{type(error).__name__}: {error}"}
    except ValueError as error:
        answer["error"] = {"code": "invalid_line", "message": f"line {number}: {error}"}
    return answer


def read_question(question: Any) -> tuple[str, dict[str, Any]]:
    """(path, body). Raises ValueError for what is no request of a batch."""
    if not isinstance(question, dict) or not isinstance(question.get("custom_id"), str):
        raise ValueError("it needs a custom_id, which is a text")
    if question.get("method", "POST") != "POST":
        raise ValueError("method must be POST")
    if question.get("url") not in URLS:
        raise ValueError(f"url must be one of {', '.join(URLS)}")
    body = question.get("body")
    if not isinstance(body, dict):
        raise ValueError("body must be an object")
    if body.get("stream"):
        raise ValueError("a batch has no streams; leave stream out")
    return question["url"], body
