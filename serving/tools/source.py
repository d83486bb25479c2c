"""The text of an answer as far as it has come, and the few ways in which parsers read it.

Every way of reading is a generator: it yields None where only more text can decide, so what it finds is the same for
every way to cut the text into pieces. Pieces of text are passed on as soon as no marker can begin in them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from functools import lru_cache
from typing import TypeAlias, TypeVar, cast

from serving.tools.events import Event

T = TypeVar("T")
Waits: TypeAlias = Generator[None, None, T]  # yields None: more text is needed
Pieces: TypeAlias = Generator[str | None, None, T]  # yields text as it comes
Steps: TypeAlias = Generator[Event | None, None, T]

SPACES = re.compile(r"[ \t\r\n]+")
NAME = re.compile(r"[\w.:/-]+")  # of a function; servers of tools put dots, colons and slashes into them


class Malformed(Exception):
    """The text is not what the format says it should be, or ends before it was complete."""


class Source:
    """Reads text that arrives in pieces. Text behind the oldest place that is kept to come back to is forgotten."""

    def __init__(self, text: str = "") -> None:
        self._text = text
        self._at = 0
        self._kept: list[int] = []
        self._ended = False

    def push(self, text: str) -> None:
        """More text has come."""
        read = self._kept[0] if self._kept else self._at
        self._text = self._text[read:] + text
        self._at -= read
        self._kept = [place - read for place in self._kept]

    def end(self) -> None:
        """No more text will come; nothing yields None from here on."""
        self._ended = True

    @property
    def at_end(self) -> bool:
        """Whether everything has come and has been read."""
        return self._ended and self._at == len(self._text)

    def keep(self) -> None:
        """Remembers this place, until `back`, `release` or `commit`."""
        self._kept.append(self._at)

    def back(self) -> None:
        """What was read since the last `keep`, if there is one, is unread again."""
        if self._kept:
            self._at = self._kept.pop()

    def release(self) -> None:
        """What was read since the last `keep` will not be needed again."""
        if self._kept:
            self._kept.pop()

    def commit(self) -> None:
        """Nothing that was read will be needed again."""
        self._kept.clear()

    def unread(self, marker: str) -> None:
        """Puts back what was read last."""
        self._at -= len(marker)

    def peek(self) -> Waits[str]:
        """The next character, left unread; "" at the end."""
        while self._at == len(self._text) and (yield from self._more()):
            pass
        return self._text[self._at : self._at + 1]

    def flow(self, characters: re.Pattern[str]) -> Pieces[None]:
        """Passes on the longest run of characters. The pattern judges each by itself: a class with a plus."""
        while True:
            if found := characters.match(self._text, self._at):
                yield self._take(found.end() - self._at)
            if self._at < len(self._text) or not (yield from self._more()):
                return

    def run(self, characters: re.Pattern[str]) -> Waits[str]:
        """The same run, in one piece."""
        return collected(self.flow(characters))

    def ahead(self, *markers: str) -> Waits[str]:
        """Which of the markers comes next, left unread; "" for none. No marker may begin with another."""
        while True:
            for marker in markers:
                if self._text.startswith(marker, self._at):
                    return marker
            if not self._may_begin(markers, self._at) or not (yield from self._more()):
                return ""

    def accept(self, *markers: str) -> Waits[str]:
        """Reads whichever of the markers comes next; "" for none."""
        marker = yield from self.ahead(*markers)
        return self._take(len(marker))

    def expect(self, *markers: str) -> Waits[str]:
        """Reads whichever of the markers comes next. Raises Malformed for none."""
        marker = yield from self.accept(*markers)
        if not marker:
            raise Malformed
        return marker

    def until(self, *markers: str) -> Pieces[str]:
        """Passes text on up to the first of the markers, which is read and given back; "" at the end of the text."""
        first = _first_of(markers)
        while True:
            if found := first.search(self._text, self._at):
                yield self._take(found.start() - self._at)
                return self._take(len(found[0]))
            yield self._take(self._before(markers))
            if not (yield from self._more()):
                yield self._take(len(self._text) - self._at)
                return ""

    def upto(self, *markers: str) -> Pieces[str]:
        """The same. Raises Malformed when the text ends first."""
        marker = yield from self.until(*markers)
        if not marker:
            raise Malformed
        return marker

    def _more(self) -> Waits[bool]:
        if self._ended:
            return False
        yield None
        return True

    def _take(self, length: int) -> str:
        self._at += length
        return self._text[self._at - length : self._at]

    def _may_begin(self, markers: tuple[str, ...], at: int) -> bool:
        """Whether the rest of the text is the beginning of a marker."""
        left = len(self._text) - at
        return any(left < len(marker) and marker.startswith(self._text[at:]) for marker in markers)

    def _before(self, markers: tuple[str, ...]) -> int:
        """How many of the unread characters come before what may be the beginning of a marker."""
        begun = _begun(markers).search(self._text, self._at)
        return (begun.start() if begun else len(self._text)) - self._at


@lru_cache(maxsize=256)
def _first_of(markers: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, markers)) or r"(?!)")


@lru_cache(maxsize=256)
def _begun(markers: tuple[str, ...]) -> re.Pattern[str]:
    """The beginning of a marker at the end of the text."""
    beginnings = []
    for marker in markers:
        rest = ""
        for char in reversed(marker[:-1]):
            rest = f"{re.escape(char)}(?:{rest})?" if rest else re.escape(char)
        beginnings.append(rest or r"(?!)")
    return re.compile(rf"(?:{'|'.join(beginnings)})\Z" if markers else r"(?!)")


def collected(pieces: Pieces[object]) -> Waits[str]:
    """All the pieces as one text."""
    parts = []
    for piece in pieces:
        if piece is None:
            yield None
        else:
            parts.append(piece)
    return "".join(parts)


def told(pieces: Pieces[T], event: Callable[[str], Event]) -> Steps[T]:
    """Each piece as an event."""
    while True:
        try:
            piece = next(pieces)
        except StopIteration as end:
            return cast(T, end.value)
        if piece is None:
            yield None
        elif piece:
            yield event(piece)


def skip(source: Source, *markers: str) -> Waits[None]:
    """Reads past those of the markers that come next, in this order, with whitespace before each."""
    yield from source.run(SPACES)
    for marker in markers:
        if (yield from source.accept(marker)):
            yield from source.run(SPACES)
