"""Server-sent events of OpenAI's protocol, read with little work per chunk: bytes in, typed events out.

`remote.py` (chat, complete) and `bench/client.py` feed it what arrives from the network.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Delta(msgspec.Struct):
    content: str | None = None


class Choice(msgspec.Struct):
    """`text` of completions, `delta` of chats."""

    text: str | None = None
    delta: Delta | None = None

    @property
    def piece(self) -> str:
        return self.text or (self.delta.content if self.delta else None) or ""


class Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Event(msgspec.Struct):
    """One chunk; fields that nobody here looks at are skipped, not decoded."""

    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: Any = None


class EventReader:
    """Cuts a stream of bytes into events. Comments, other fields and the final [DONE] are left out."""

    def __init__(self) -> None:
        self._rest = b""
        self._decode = msgspec.json.Decoder(Event).decode

    def feed(self, data: bytes) -> list[Event]:
        """The events that are complete now. Raises ValueError for data that is no such event."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        payloads = [line[5:].strip() for line in lines if line.startswith(b"data:")]
        try:
            return [self._decode(payload) for payload in payloads if payload != b"[DONE]"]
        except msgspec.DecodeError as error:
            raise ValueError(f"the server sent an event that cannot be read: {error}") from error


def reason(error: Any) -> str:
    """The message of an answer's `error`, which is an object or a text."""
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)
