"""What an answer consists of: the events that parsers yield, and the message that they add up to.

`message.py` passes every event through `Seams`; the server turns the rest into deltas of its protocols or, by `fold`,
into one message.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TypeAlias

SPACE = " \t\r\n"


@dataclass(frozen=True)
class Reasoning:
    """A piece of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True)
class Content:
    """A piece of the answer itself."""

    text: str


@dataclass(frozen=True)
class CallStart:
    """The `index`-th call (from 0) begins; its arguments follow. Identifiers are the server's to make."""

    index: int
    name: str


@dataclass(frozen=True)
class CallArguments:
    """A piece of the JSON text of the `index`-th call's arguments."""

    index: int
    text: str


Event: TypeAlias = Reasoning | Content | CallStart | CallArguments


@dataclass
class Call:
    """A whole call; `arguments` is JSON text, valid unless the answer was cut short inside it."""

    name: str
    arguments: str = ""


@dataclass
class Message:
    """A whole answer; None where there was no such text."""

    reasoning: str | None = None
    content: str | None = None
    calls: list[Call] = field(default_factory=list)


def fold(events: Iterable[Event]) -> Message:
    """The message that the events add up to."""
    message = Message()
    for event in events:
        match event:
            case Reasoning(text):
                message.reasoning = (message.reasoning or "") + text
            case Content(text):
                message.content = (message.content or "") + text
            case CallStart(_, name):
                message.calls.append(Call(name))
            case CallArguments(index, text):
                message.calls[index].arguments += text
    return message


def merged(events: Iterable[Event]) -> list[Event]:
    """The same events with neighbours of one kind made one."""
    events = list(events)
    if len(events) < 2:
        return events
    result: list[Event] = []
    for event in events:
        last = result[-1] if result else None
        if last is None or isinstance(event, CallStart) or isinstance(last, CallStart) or type(event) is not type(last):
            result.append(event)
        else:
            result[-1] = replace(last, text=last.text + event.text)
    return result


class Seams:
    """The whitespace where two kinds of text meet belongs to the format, not to either text: it is dropped.

    Templates put blank lines around thinking blocks and calls; whoever sends the message back would double them. So
    whitespace waits until it is known what follows. Where a kind of text resumes after another, a blank line takes its
    place.
    """

    def __init__(self) -> None:
        self._kind: type[Event] | None = None
        self._space = ""  # held back, of the present kind
        self._fresh = False  # nothing but whitespace since a seam
        self._told: set[type[Event]] = set()

    def pass_on(self, event: Event) -> list[Event]:
        """What of the event, and of the whitespace before it, is certain to belong to the message."""
        if isinstance(event, CallStart | CallArguments):
            self._kind, self._space = CallStart, ""
            return [event]
        kind = type(event)
        if kind is not self._kind:
            self._fresh = kind is Reasoning or self._kind is not None
            self._kind, self._space = kind, ""
        text = self._space + event.text
        if self._fresh:
            text = text.lstrip(SPACE)
        body = text.rstrip(SPACE)
        self._space = text[len(body) :]
        if not body:
            return []
        if self._fresh and kind in self._told:
            body = "\n\n" + body
        self._fresh = False
        self._told.add(kind)
        return [kind(body)]

    def finish(self) -> list[Event]:
        """Content ends as the model ended it."""
        return [Content(self._space)] if self._kind is Content and self._space else []
