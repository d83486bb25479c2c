"""Qwen3-Coder, Qwen3.5 and Nemotron 3: a function tag with a tag for each parameter; strings are written bare.

    <tool_call>
    <function=get_weather>
    <parameter=city>
    Paris
    </parameter>
    </function>
    </tool_call>

The outer tags may be missing. Source: Qwen3-Coder's chat template; vLLM's parsers `qwen3_xml` and `qwen3_coder`.
"""

from __future__ import annotations

from collections.abc import Sequence

from serving.tools.calls import Calls, ToolFormat, calls_within
from serving.tools.definitions import Tool
from serving.tools.lark import Lark
from serving.tools.source import NAME, SPACES, Malformed, Source, Steps, skip
from serving.tools.tagged import Tags, arguments_grammar, read_arguments

OPEN, CLOSE = "<tool_call>", "</tool_call>"
FUNCTION, FUNCTION_CLOSE = "<function=", "</function>"
TAGS = Tags("<parameter=", ">", "", "</parameter>", padding="\n", after=(FUNCTION_CLOSE,))


def read(source: Source, calls: Calls) -> Steps[None]:
    openings = {OPEN: _read_wrapped, FUNCTION: _read_function}
    yield from calls_within(source, calls, openings, closings=(FUNCTION_CLOSE, CLOSE))


def _read_wrapped(source: Source, calls: Calls) -> Steps[None]:
    yield from source.run(SPACES)
    yield from source.expect(FUNCTION)
    yield from _read_function(source, calls)


def _read_function(source: Source, calls: Calls) -> Steps[None]:
    name = yield from source.run(NAME)
    yield from source.expect(">")
    yield from source.run(SPACES)
    if not name or not (yield from source.ahead(TAGS.key_open, FUNCTION_CLOSE)):
        raise Malformed
    yield calls.start(name)
    yield from read_arguments(source, calls, calls.tool(name), TAGS)
    yield from source.expect(FUNCTION_CLOSE)
    yield calls.arguments("}")
    yield from skip(source, CLOSE)


def grammar(lark: Lark, tools: Sequence[Tool], several: bool) -> str:
    closing = lark.text(f"{FUNCTION_CLOSE}\n{CLOSE}")
    calls = []
    for tool in tools:
        opening = lark.text(f"{OPEN}\n{FUNCTION}{tool.name}>\n")
        arguments = arguments_grammar(lark, tool, TAGS, between=lark.text("\n"))
        calls.append(f"{opening} {arguments} {closing}")
    call = lark.either(calls)
    return lark.several(call, lark.text("\n")) if several else call


def recognises(template: str) -> bool:
    return OPEN in template and FUNCTION in template and TAGS.key_open in template


FORMAT = ToolFormat("qwen3_xml", read, recognises, grammar, ends_reasoning=(f"{OPEN}\n{FUNCTION}",))
