"""The responses that an HTTP process keeps: bounded by number, by bytes and by age.

Those that run in the background are here from their beginning, all others from their end. `endpoints.py` makes one.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from serving.config import ServerConfig
from serving.errors import Refusal
from serving.openai.responses import wire
from serving.openai.responses.items import Known

if TYPE_CHECKING:
    from serving.openai.responses.background import Background

SIZE = 1024  # of the store where nothing else is said


@dataclass(eq=False)
class Kept:
    """A response, what it answered, and what came before that."""

    response: wire.Response
    input: Sequence[Known]
    previous: Kept | None = None
    background: Background | None = None
    size: int = 0  # bytes of JSON, with all that came before
    until: float = 0.0

    @property
    def running(self) -> bool:
        return self.response.status in ("queued", "in_progress")

    @property
    def items(self) -> list[Known]:
        return [*self.input, *self.response.output]

    def conversation(self) -> list[Known]:
        """All items up to its end. They stay as long as a response needs them, whatever became of earlier ones."""
        turns, turn = [], self
        while turn.previous is not None:
            turns.append(turn)
            turn = turn.previous
        return [item for each in (turn, *reversed(turns)) for item in each.items]


class Store:
    """Raises Refusal: 404 for what is not kept, 429 when there is no place for another one in the background."""

    def __init__(self, size: int, most_bytes: int, age: float) -> None:
        self.size, self.most_bytes, self.age = size, most_bytes, age
        self.bytes = 0
        self._kept: OrderedDict[str, Kept] = OrderedDict()  # that have ended, the oldest first
        self._running: dict[str, Kept] = {}
        self._items: dict[str, tuple[Known, Kept]] = {}  # of those that have ended, by id

    @classmethod
    def of(cls, config: ServerConfig) -> Store:
        """Processes do not see each other's responses: where there are several, none is kept."""
        size = config.responses_store_size
        if size is None:
            size = SIZE if config.api_server_count == 1 else 0
        return cls(size, config.responses_store_bytes, config.responses_store_age)

    def find(self, id: str, field: str = "response_id") -> Kept:
        self._forget_old()
        found = self._running.get(id) or self._kept.get(id)
        if found is None:
            why = "it was never stored, was deleted, or gave place to newer ones"
            if not self.size:
                why = "this server keeps none (--responses-store-size)"
            raise Refusal(404, f"{field}: there is no response {id[:100]!r}; {why}", param=field)
        return found

    def item(self, id: str) -> Known | None:
        """Of the input or the output of a response that is kept."""
        self._forget_old()
        return self._items[id][0] if id in self._items else None

    def start(self, entry: Kept) -> None:
        """Of a response in the background."""
        if len(self._running) >= self.size:
            raise Refusal(429, f"{len(self._running)} responses are running in the background already", retry_after=1)
        self._running[entry.response.id] = entry

    def keep(self, entry: Kept) -> None:
        """It has ended."""
        self._running.pop(entry.response.id, None)
        events = () if entry.background is None else entry.background.events
        told = len(msgspec.json.encode((entry.response, entry.input))) + sum(map(len, events))
        entry.size = told + (0 if entry.previous is None else entry.previous.size)
        entry.until = time.monotonic() + self.age
        self._kept[entry.response.id] = entry
        self._items |= {item.id: (item, entry) for item in entry.items}
        self.bytes += entry.size
        self._forget_old()
        while self._kept and (len(self._kept) > self.size or self.bytes > self.most_bytes):
            self._forget(next(iter(self._kept)))

    def delete(self, id: str) -> None:
        if id in self._kept:
            self._forget(id)

    def _forget_old(self) -> None:
        now = time.monotonic()
        while self._kept and next(iter(self._kept.values())).until <= now:
            self._forget(next(iter(self._kept)))

    def _forget(self, id: str) -> None:
        entry = self._kept.pop(id)
        self.bytes -= entry.size
        entry.background = None  # its events are not needed by the responses that follow it
        for item in entry.items:
            if item.id in self._items and self._items[item.id][1] is entry:
                del self._items[item.id]
