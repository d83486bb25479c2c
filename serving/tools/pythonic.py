"""Llama 3.2, Llama 4 and ToolACE: the answer is a Python list of calls with keyword arguments.

    [get_weather(city="Paris", days=3), get_time(zone="Europe/Paris")]

Only a list at the beginning of an answer is one, and only functions that the request has are calls. Llama 4 puts it
between `<|python_start|>` and `<|python_end|>`. Source: the chat templates of vLLM for Llama 3.2 and 4; vLLM's parsers
`pythonic` and `llama4_pythonic`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from serving.tools.calls import Calls, ToolFormat, attempt
from serving.tools.definitions import Tool, kind, quoted, typed
from serving.tools.events import Content
from serving.tools.json_text import json_value, loaded
from serving.tools.lark import Lark
from serving.tools.source import NAME, SPACES, Malformed, Source, Steps, collected, skip, told

START, END = "<|python_start|>", "<|python_end|>"
KEYWORD = re.compile(r"[^\W\d]\w*")
WORD = re.compile(r"\w+")


def read(source: Source, calls: Calls) -> Steps[None]:
    found = yield from attempt(source, calls, _read_first)
    while found:
        found = yield from attempt(source, calls, _read_next)
    if calls.count:
        yield from skip(source, ",", "]", END)
    yield from told(source.until(), Content)


def _read_first(source: Source, calls: Calls) -> Steps[None]:
    yield from skip(source, START)
    yield from source.expect("[")
    yield from _read_call(source, calls)


def _read_next(source: Source, calls: Calls) -> Steps[None]:
    yield from source.run(SPACES)
    yield from source.expect(",")
    yield from _read_call(source, calls)


def _read_call(source: Source, calls: Calls) -> Steps[None]:
    """Told as a whole when its bracket closes."""
    yield from source.run(SPACES)
    name = yield from source.run(NAME)
    if not name or not calls.plausible(name):
        raise Malformed
    yield from source.run(SPACES)
    yield from source.expect("(")
    yield from source.run(SPACES)
    tool = calls.tool(name)
    arguments: list[str] = []
    while not (yield from source.accept(")")):
        if arguments:
            yield from source.expect(",")
            yield from source.run(SPACES)
            if (yield from source.accept(")")):
                break
        keyword = yield from source.run(WORD)
        if not KEYWORD.fullmatch(keyword):
            raise Malformed
        yield from source.run(SPACES)
        yield from source.expect("=")
        yield from source.run(SPACES)
        value = yield from collected(json_value(source))
        arguments.append(f"{quoted(keyword)}: {_fitting(value, tool.types(keyword))}")
        yield from source.run(SPACES)
    yield calls.start(name)
    yield calls.arguments("{" + ", ".join(arguments) + "}")


def _fitting(value: str, types: frozenset[str]) -> str:
    """Templates show every value in quotes; where the parameter is no string, what they enclose is meant."""
    if kind(value) == "string" and types and "string" not in types:
        return typed(types, str(loaded(value)))
    return value


def grammar(lark: Lark, tools: Sequence[Tool], several: bool) -> str:
    call = lark.either(_call_grammar(lark, tool) for tool in tools)
    return f'"[" {lark.several(call, lark.text(", ")) if several else call} "]"'


def _call_grammar(lark: Lark, tool: Tool) -> str:
    """Required arguments first, so that every optional one has a comma before it."""
    required = [name for name in tool.properties if name in tool.required]
    optional = [name for name in tool.properties if name not in required]
    values = {name: f"{lark.text(name + '=')} {_value(lark, tool, name)}" for name in tool.properties}
    parts = f" {json.dumps(', ')} ".join(values[name] for name in required)
    rest = [f'(", " {values[name]})?' for name in optional]
    if not required and optional:
        starts = (" ".join([values[name], *rest[place + 1 :]]) for place, name in enumerate(optional))
        parts, rest = f"({lark.either(starts)})?", []
    return " ".join([lark.text(tool.name + "("), parts, *rest, '")"'])


def _value(lark: Lark, tool: Tool, name: str) -> str:
    if tool.types(name) == {"boolean"}:
        return lark.either(['"True"', '"False"'])
    return lark.json(tool.properties[name])


def recognises(template: str) -> bool:
    return re.search(r"\[func(_name)?\d?\(", template) is not None


FORMAT = ToolFormat("pythonic", read, recognises, grammar, keeps_special_tokens=False)
