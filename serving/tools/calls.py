"""What the formats share: numbering of calls, finding them between content, and calls that are JSON objects.

A format describes one call as a generator that raises Malformed where the text is none; `calls_within` does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from serving.tools.definitions import Tool, quoted
from serving.tools.events import CallArguments, CallStart, Content
from serving.tools.json_text import json_value, loaded, word
from serving.tools.lark import Lark
from serving.tools.source import SPACES, Malformed, Source, Steps, collected, told

ARGUMENTS = ("arguments", "parameters")
MEMBERS_OF_A_CALL = {"name", "type", "id", *ARGUMENTS}


class Calls:
    """The calls of one answer. `tools` may be empty: then any name will do. `wanted`: none of them is content."""

    def __init__(self, source: Source, tools: Mapping[str, Tool], wanted: bool = True) -> None:
        self.tools = tools
        self.wanted = wanted
        self.count = 0
        self._source = source

    def start(self, name: str) -> CallStart:
        """The next call is certain: what was read of it cannot be content any more."""
        self._source.commit()
        self.count += 1
        return CallStart(self.count - 1, name)

    def arguments(self, text: str) -> CallArguments:
        """A piece of the present call's arguments."""
        return CallArguments(self.count - 1, text)

    def plausible(self, name: str) -> bool:
        """Whether a call of this name may be meant where no marker says that it is a call."""
        return not self.tools or name in self.tools

    def tool(self, name: str) -> Tool:
        """Of a name that the model gave."""
        return self.tools.get(name) or Tool(name)


Read: TypeAlias = Callable[[Source, Calls], Steps[None]]


@dataclass(frozen=True)
class ToolFormat:
    """One way in which models write calls: how to read it, to recognise it, and to make a model write it."""

    name: str
    read: Read  # a whole answer, reasoning apart
    recognises: Callable[[str], bool]  # whether models with this chat template write so
    grammar: Callable[[Lark, Sequence[Tool], bool], str]  # an answer of calls only; the last says: several
    keeps_special_tokens: bool = True  # markers may be special tokens, which must then be in the text
    ends_reasoning: tuple[str, ...] = ()  # a call's beginning that no thinking block contains


def attempt(source: Source, calls: Calls, read: Read) -> Steps[bool]:
    """Reads one call; False when there is none, all of it unread again, or when it is broken off somewhere inside."""
    source.keep()
    try:
        yield from read(source, calls)
    except Malformed:
        source.back()
        return False
    source.release()
    return True


def calls_within(
    source: Source, calls: Calls, openings: Mapping[str, Read], closings: tuple[str, ...] = ()
) -> Steps[None]:
    """Content, and a call wherever its opening marker is followed by one.

    Of a call that is broken off, the rest is content, up to the closing marker that is left over.
    """
    left_over: tuple[str, ...] = ()
    while True:
        marker = yield from told(source.until(*openings, *left_over), Content)
        if not marker:
            return
        if marker in left_over:
            left_over = ()
            continue
        before = calls.count
        if (yield from attempt(source, calls, openings[marker])):
            left_over = ()
        elif calls.count == before:
            yield Content(marker)
        else:
            left_over = closings


def json_call(source: Source, calls: Calls, *, marked: bool = True) -> Steps[None]:
    """`{"name": "f", "arguments": {...}}`, members in any order; arguments stream once the name is known.

    Without a marker before it (`marked`), an object is a call only if it has a plausible name, arguments and no
    members but a call's. With one, arguments may be missing, unless they may be what another member was meant for.
    """
    name = held = ""
    started = strange = False
    yield from source.expect("{")
    separator = ","
    while separator == ",":
        yield from source.run(SPACES)
        key = yield from word(source)
        strange = strange or key not in MEMBERS_OF_A_CALL
        if strange and not marked:
            raise Malformed
        yield from source.run(SPACES)
        yield from source.expect(":")
        yield from source.run(SPACES)
        if key in ARGUMENTS and name and not started and (yield from source.peek()) == "{":
            yield calls.start(name)
            started = True
            yield from told(json_value(source), calls.arguments)
        else:
            value = yield from collected(json_value(source))
            if key == "name" and not name:
                name = loaded(value)
                if not name or not isinstance(name, str) or not (marked or calls.plausible(name)):
                    raise Malformed
            elif key in ARGUMENTS and not held:
                held = _object(value)
        yield from source.run(SPACES)
        separator = yield from source.expect(",", "}")
    if not started:
        if not name or not (held or (marked and not strange)):
            raise Malformed
        yield calls.start(name)
        yield calls.arguments(held or "{}")


def json_calls(source: Source, calls: Calls, *separators: str, marked: bool = True) -> Steps[None]:
    """One or more such objects, with or without a separator between them."""

    def next_call(source: Source, calls: Calls) -> Steps[None]:
        yield from source.run(SPACES)
        yield from source.accept(*separators)
        yield from source.run(SPACES)
        yield from json_call(source, calls, marked=marked)

    yield from json_call(source, calls, marked=marked)
    while (yield from attempt(source, calls, next_call)):
        pass


def _object(value: str) -> str:
    """Arguments as an object: some models write them as a string of JSON, or as null when there are none."""
    said = loaded(value)
    if isinstance(said, str) and said.strip():
        value, said = said, loaded(said)
    if said is None or said == "":
        return "{}"
    if not isinstance(said, dict):
        raise Malformed
    return value


def call_grammar(lark: Lark, tools: Sequence[Tool], arguments: str = "arguments") -> str:
    """Such an object: a call of one of the tools. `arguments`: the name of that member."""
    calls = []
    for tool in tools:
        opening = lark.text(f'{{"name": {quoted(tool.name)}, {quoted(arguments)}: ')
        calls.append(f"{opening} {lark.json(arguments_schema(tool))} {lark.text('}')}")
    return lark.either(calls)


def list_grammar(lark: Lark, tools: Sequence[Tool], several: bool) -> str:
    """A JSON list of them."""
    call = call_grammar(lark, tools)
    return f"{lark.text('[')} {lark.several(call, lark.text(', ')) if several else call} {lark.text(']')}"


def arguments_schema(tool: Tool) -> dict[str, Any]:
    """The schema of a tool's arguments: always of an object."""
    return {"properties": {}, **tool.parameters, "type": "object"}
