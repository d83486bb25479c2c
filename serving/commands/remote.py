"""A server of OpenAI's protocol as the terminal sees it: `chat --url` and `complete` stream from it.

Every failure is a ServerError with one line for the user.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import typer
from rich.console import Console

from serving.commands.events import EventReader, reason

CONNECT_SECONDS = 10.0
URL = "http://localhost:8000/v1"


class ServerError(ValueError):
    """The server cannot be reached, refused, or broke off."""


@contextmanager
def failures_in_one_line() -> Iterator[None]:
    """A ValueError becomes a line on stderr and exit status 1."""
    try:
        yield
    except ValueError as error:
        Console(stderr=True).print(f"[red]error:[/red] {error}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error


def headers(api_key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def base_url(url: str) -> str:
    """Where the server is, with or without the /v1 at its end, as the address that paths like /v1/models follow."""
    return url.rstrip("/").removesuffix("/v1")


class Remote:
    """`model`: asked of the server unless named. Closed by `with`."""

    def __init__(self, url: str, api_key: str | None = None, model: str | None = None) -> None:
        timeout = httpx.Timeout(None, connect=CONNECT_SECONDS)  # a long queue is no failure
        self.http = httpx.Client(base_url=base_url(url), headers=headers(api_key), timeout=timeout)
        self.num_tokens = 0  # of the newest answer
        self.model = model or self.cards()[0]["id"]

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *exception: object) -> None:
        self.http.close()

    def cards(self) -> list[dict[str, Any]]:
        """What the server says of its models; at least one."""
        cards = self.ask("GET", "/v1/models").get("data")
        if not cards:
            raise ServerError(f"{self.http.base_url} serves no model")
        return cards

    def ask(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        """A whole answer."""
        with self._failures():
            answer = self.http.request(method, path, json=body or None)
            _check(answer)
            return answer.json()

    def chat(self, messages: list[dict[str, str]], **sampling: Any) -> Generator[str, None, None]:
        return self._stream("/v1/chat/completions", messages=messages, **sampling)

    def complete(self, prompt: str, **sampling: Any) -> Generator[str, None, None]:
        return self._stream("/v1/completions", prompt=prompt, **sampling)

    def _stream(self, path: str, **body: Any) -> Generator[str, None, None]:
        """Pieces of the answer. `num_tokens` counts the chunks, until the server tells the tokens at the end."""
        body |= {"model": self.model, "stream": True, "stream_options": {"include_usage": True}}
        events, self.num_tokens = EventReader(), 0
        with self._failures(), self.http.stream("POST", path, json=body) as answer:
            if answer.is_error:
                answer.read()
            _check(answer)
            for data in answer.iter_bytes():
                for event in events.feed(data):
                    if event.error is not None:
                        raise ServerError(reason(event.error))
                    for choice in event.choices or ():
                        self.num_tokens += 1
                        yield choice.piece
                    if event.usage is not None and event.usage.completion_tokens is not None:
                        self.num_tokens = event.usage.completion_tokens

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ServerError(f"{self.http.base_url}: {error or type(error).__name__}") from error


def _check(answer: httpx.Response) -> None:
    """Raises ServerError with what the server says about its refusal."""
    if answer.is_success:
        return
    try:
        said = reason(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        said = answer.text[:500] or answer.reason_phrase
    raise ServerError(f"status {answer.status_code}: {said}")
