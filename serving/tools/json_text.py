"""Reads one JSON value out of an answer and passes on its text as it comes, always as valid JSON.

What models write in JSON's stead is put right on the way: Python's words, quotes and tuples, trailing commas, raw line
breaks in strings, backslashes that escape nothing. Anything else raises Malformed.
"""

from __future__ import annotations

import json
import re
from typing import Any

from serving.tools.source import SPACES, Malformed, Pieces, Source, Waits, collected

CLOSING = {"{": "}", "[": "]", "(": ")"}
WORDS = {"true": "true", "false": "false", "null": "null", "True": "true", "False": "false", "None": "null"}
NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_BARE = re.compile(r"[A-Za-z0-9+.-]+")
_PLAIN = {'"': re.compile(r'[^"\\\x00-\x1f]+'), "'": re.compile(r"[^'\"\\\x00-\x1f]+")}
_HEX = re.compile(r"[0-9a-fA-F]")


def json_value(source: Source) -> Pieces[None]:
    """One value, from its first character to its last. Depth costs no recursion."""
    closings: list[str] = []
    while True:
        char = yield from source.peek()
        if char in CLOSING:
            yield from source.expect(char)
            closings.append(CLOSING[char])
            yield "{" if char == "{" else "["
        elif char in _PLAIN:
            yield from json_string(source)
        else:
            yield (yield from _bare(source))
        yield from _between(source, closings, "" if char in CLOSING else ",")
        if not closings:
            return


def _between(source: Source, closings: list[str], comma: str) -> Pieces[None]:
    """From the end of a value (or from a bracket that opened, where no comma is due) to where the next one begins."""
    while closings:
        space = yield from source.run(SPACES)
        found = ""
        if comma and (found := (yield from source.accept(comma))):
            space += yield from source.run(SPACES)  # the comma waits: before a bracket that closes it is dropped
        if (yield from source.accept(closings[-1])):
            yield space + ("}" if closings.pop() == "}" else "]")
            comma = ","
            continue
        if found != comma:
            raise Malformed
        yield found + space
        if closings[-1] == "}":
            yield from json_string(source)
            space = yield from source.run(SPACES)
            yield space + (yield from source.expect(":")) + (yield from source.run(SPACES))
        return


def json_string(source: Source) -> Pieces[None]:
    """A string in double quotes; one in single quotes becomes one."""
    quote = yield from source.expect('"', "'")
    yield '"'
    while True:
        yield from source.flow(_PLAIN[quote])
        char = yield from source.peek()
        if not char:
            raise Malformed
        yield from source.expect(char)
        if char == quote:
            yield '"'
            return
        yield (yield from _escape(source)) if char == "\\" else json.dumps(char)[1:-1]


def _escape(source: Source) -> Waits[str]:
    """What follows a backslash."""
    found = yield from source.accept('"', "\\", "/", "b", "f", "n", "r", "t", "'", "u", "x")
    if found == "'":
        return "'"
    if found not in ("u", "x"):
        return "\\" + found if found else "\\\\"
    digits = ""
    while len(digits) < (4 if found == "u" else 2):
        digit = yield from source.peek()
        if not _HEX.match(digit):
            return "\\\\" + found + digits
        digits += yield from source.expect(digit)
    return "\\u" + digits.rjust(4, "0")


def _bare(source: Source) -> Waits[str]:
    source.keep()
    word = yield from source.run(_BARE)
    if word not in WORDS and not NUMBER.fullmatch(word):
        source.back()
        raise Malformed
    source.release()
    return WORDS.get(word, word)


def read_json(text: str) -> str | None:
    """A whole text as one JSON value; None when it is none."""
    source = Source(text.strip())
    source.end()
    try:
        value = "".join(piece for piece in json_value(source) if piece)
    except Malformed:
        return None
    return value if source.at_end else None


def loaded(text: str) -> Any:
    """What JSON text says. Raises Malformed where Python cannot hold it."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Malformed from error


def word(source: Source) -> Waits[str]:
    """The string that comes next, as a string."""
    return str(loaded((yield from collected(json_string(source)))))
