"""Mistral: a marker, then a JSON list of calls (up to tokenizer v7), or a name and its arguments (from v11).

    [TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris"}, "id": "a1b2c3d4e"}]
    [TOOL_CALLS]get_weather[CALL_ID]a1b2c3d4e[ARGS]{"city": "Paris"}

`[CALL_ID]` is v11's only, `[ARGS]` may be missing. Source: mistral-common's chat templates; vLLM's parser `mistral`.
"""

from __future__ import annotations

from collections.abc import Sequence

from serving.tools.calls import Calls, ToolFormat, arguments_schema, calls_within, json_calls, list_grammar
from serving.tools.definitions import Tool
from serving.tools.json_text import json_value
from serving.tools.lark import Lark
from serving.tools.source import NAME, SPACES, Malformed, Source, Steps, skip, told

CALLS, CALL_ID, ARGS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"


def read(source: Source, calls: Calls) -> Steps[None]:
    yield from calls_within(source, calls, {CALLS: _read_calls})


def _read_calls(source: Source, calls: Calls) -> Steps[None]:
    yield from source.run(SPACES)
    begin = yield from source.peek()
    if begin and begin in "[{":
        yield from skip(source, "[")
        yield from json_calls(source, calls, ",")
        if begin == "[":
            yield from skip(source, "]")
        return
    name = yield from source.run(NAME)
    if (yield from source.accept(CALL_ID)):
        yield from source.run(NAME)
    yield from source.accept(ARGS)
    yield from source.run(SPACES)
    if not name or (yield from source.peek()) != "{":
        raise Malformed
    yield calls.start(name)
    yield from told(json_value(source), calls.arguments)


def grammar(lark: Lark, tools: Sequence[Tool], several: bool) -> str:
    if not lark.has(ARGS):
        return f"{lark.text(CALLS)} {list_grammar(lark, tools, several)}"
    call = lark.either(f"{lark.text(CALLS + tool.name + ARGS)} {lark.json(arguments_schema(tool))}" for tool in tools)
    return lark.several(call) if several else call


def recognises(template: str) -> bool:
    return CALLS in template


FORMAT = ToolFormat("mistral", read, recognises, grammar)
