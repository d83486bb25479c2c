"""GLM 4.5 to 4.7: the name, then keys and values between tags; strings are written bare, other values as JSON.

    <tool_call>get_weather
    <arg_key>city</arg_key>
    <arg_value>Paris</arg_value>
    </tool_call>

GLM 4.7 leaves the line breaks out. Source: the chat templates of GLM-4.5 and GLM-4.6; vLLM's parser `glm45`.
"""

from __future__ import annotations

from collections.abc import Sequence

from serving.tools.calls import Calls, ToolFormat, calls_within
from serving.tools.definitions import Tool
from serving.tools.lark import Lark
from serving.tools.source import NAME, SPACES, Malformed, Source, Steps
from serving.tools.tagged import Tags, arguments_grammar, read_arguments

OPEN, CLOSE = "<tool_call>", "</tool_call>"
TAGS = Tags("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", padding="", after=(CLOSE,))


def read(source: Source, calls: Calls) -> Steps[None]:
    yield from calls_within(source, calls, {OPEN: _read_call}, closings=(CLOSE,))


def _read_call(source: Source, calls: Calls) -> Steps[None]:
    yield from source.run(SPACES)
    name = yield from source.run(NAME)
    yield from source.run(SPACES)
    if not name or not (yield from source.ahead(TAGS.key_open, CLOSE)):
        raise Malformed
    yield calls.start(name)
    yield from read_arguments(source, calls, calls.tool(name), TAGS)
    yield from source.expect(CLOSE)
    yield calls.arguments("}")


def grammar(lark: Lark, tools: Sequence[Tool], several: bool) -> str:
    line = '"\\n"?'  # GLM 4.7 writes none
    calls = []
    for tool in tools:
        arguments = arguments_grammar(lark, tool, TAGS, between=line)
        calls.append(f"{lark.text(OPEN + tool.name)} {line} {arguments} {lark.text(CLOSE)}")
    call = lark.either(calls)
    return lark.several(call, line) if several else call


def recognises(template: str) -> bool:
    return OPEN in template and TAGS.key_open in template


FORMAT = ToolFormat("glm45", read, recognises, grammar)
