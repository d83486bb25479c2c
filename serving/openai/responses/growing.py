"""The output of a response while it grows: what parsers tell → items, and the events that tell of them.

An answer in one piece is what these events add up to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from serving.openai.responses import wire
from serving.openai.responses.items import (
    FunctionCallItem,
    Made,
    MessageItem,
    OutputText,
    ReasoningItem,
    ReasoningText,
    Status,
    new_id,
)
from serving.openai.wire import TokenLogprob
from serving.tools import events


class Growing:
    """One item is open at a time, the last one of `items`."""

    def __init__(self, call_id: Callable[[], str]) -> None:
        """call_id: makes those of calls."""
        self.call_id = call_id
        self.items: list[Made] = []
        self.thoughts: list[str] = []  # the text of all reasoning, in pieces
        self._open: Made | None = None
        self._pieces: list[str] = []
        self._logprobs: list[TokenLogprob] = []

    def add(self, piece: events.Event, logprobs: Sequence[TokenLogprob] = ()) -> Iterator[wire.Event]:
        """`logprobs`: of a piece of content."""
        match piece:
            case events.CallStart(_, name):
                yield from self._begin(FunctionCallItem(call_id=self.call_id(), name=name, arguments=""))
            case events.CallArguments(_, text):
                self._pieces.append(text)
                yield wire.ArgumentsDelta(**self._place, delta=text)
            case events.Content(text):
                if not isinstance(self._open, MessageItem):
                    yield from self._begin(MessageItem(role="assistant", content=[]))
                self._pieces.append(text)
                self._logprobs += logprobs
                yield wire.TextDelta(**self._place, delta=text, logprobs=list(logprobs))
            case events.Reasoning(text):
                if not isinstance(self._open, ReasoningItem):
                    yield from self._begin(ReasoningItem())
                self._pieces.append(text)
                self.thoughts.append(text)
                yield wire.ReasoningDelta(**self._place, delta=text)

    def close(self, status: Status = "completed") -> Iterator[wire.Event]:
        """The end of the open item, if there is one."""
        text = "".join(self._pieces)
        match item := self._open:
            case None:
                return
            case FunctionCallItem():
                item.arguments = text
                yield wire.ArgumentsDone(**self._place, name=item.name, arguments=text)
            case MessageItem():
                part = OutputText(text=text, logprobs=self._logprobs)
                item.content = [part]
                yield wire.TextDone(**self._place, text=text, logprobs=self._logprobs)
                yield wire.PartDone(**self._place, part=part)
            case ReasoningItem():
                item.content = [ReasoningText(text=text)]
                yield wire.ReasoningDone(**self._place, text=text)
                yield wire.PartDone(**self._place, part=item.content[0])
        item.status = status
        yield wire.ItemDone(output_index=self._index, item=item)
        self._open, self._pieces, self._logprobs = None, [], []

    def _begin(self, item: Made) -> Iterator[wire.Event]:
        yield from self.close()
        item.id, item.status = new_id(str(item.__struct_config__.tag)), "in_progress"
        self._open = item
        self.items.append(item)
        yield wire.ItemAdded(output_index=self._index, item=item)
        if not isinstance(item, FunctionCallItem):
            part = OutputText(text="") if isinstance(item, MessageItem) else ReasoningText(text="")
            yield wire.PartAdded(**self._place, part=part)

    @property
    def _index(self) -> int:
        return len(self.items) - 1

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": self.items[-1].id, "output_index": self._index}
