"""DeepSeek V3, R1 and V3.1: calls between markers, the arguments as JSON.

    <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather
    ```json
    {"city": "Paris"}
    ```<｜tool▁call▁end｜><｜tool▁calls▁end｜>

V3.1 writes `<｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Paris"}<｜tool▁call▁end｜>`. Both names read
both, and each makes a model write its own. Source: the chat templates of DeepSeek-V3-0324, R1-0528 and V3.1; vLLM's
parsers `deepseek_v3` and `deepseek_v31`.
"""

from __future__ import annotations

from collections.abc import Sequence

from serving.tools.calls import Calls, ToolFormat, arguments_schema, calls_within
from serving.tools.definitions import Tool
from serving.tools.json_text import json_value
from serving.tools.lark import Lark
from serving.tools.source import NAME, SPACES, Malformed, Source, Steps, skip, told

CALLS_OPEN, CALLS_CLOSE = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL_OPEN, CALL_CLOSE = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
SEPARATOR = "<｜tool▁sep｜>"
FENCE_OPEN, FENCE_CLOSE = "```json", "```"


def read(source: Source, calls: Calls) -> Steps[None]:
    openings = {CALLS_OPEN: _read_first, CALL_OPEN: _read_call}
    yield from calls_within(source, calls, openings, closings=(CALL_CLOSE, CALLS_CLOSE))


def _read_first(source: Source, calls: Calls) -> Steps[None]:
    yield from source.run(SPACES)
    yield from source.expect(CALL_OPEN)
    yield from _read_call(source, calls)


def _read_call(source: Source, calls: Calls) -> Steps[None]:
    name = yield from source.run(NAME)
    yield from source.expect(SEPARATOR)
    if (yield from source.peek()) != "{":  # not V3.1: that was the word "function"
        name = yield from source.run(NAME)
        yield from skip(source, FENCE_OPEN)
    if not name or (yield from source.peek()) != "{":
        raise Malformed
    yield calls.start(name)
    yield from told(json_value(source), calls.arguments)
    yield from skip(source, FENCE_CLOSE, CALL_CLOSE, CALLS_CLOSE)


def grammar(lark: Lark, tools: Sequence[Tool], several: bool) -> str:
    openings = {tool.name: lark.text(f"{CALL_OPEN}function{SEPARATOR}{tool.name}\n{FENCE_OPEN}\n") for tool in tools}
    call = lark.either(f"{openings[tool.name]} {lark.json(arguments_schema(tool))}" for tool in tools)
    closing = lark.text(f"\n{FENCE_CLOSE}{CALL_CLOSE}")
    return _list(lark, lark.rule(f"{call} {closing}"), several, "\n")


def grammar_v31(lark: Lark, tools: Sequence[Tool], several: bool) -> str:
    call = lark.either(
        f"{lark.text(CALL_OPEN + tool.name + SEPARATOR)} {lark.json(arguments_schema(tool))}" for tool in tools
    )
    return _list(lark, lark.rule(f"{call} {lark.text(CALL_CLOSE)}"), several, "")


def _list(lark: Lark, call: str, several: bool, between: str) -> str:
    calls = lark.several(call, lark.text(between)) if several else call
    return f"{lark.text(CALLS_OPEN)} {calls} {lark.text(CALLS_CLOSE)}"


def recognises(template: str) -> bool:
    return CALL_OPEN in template and FENCE_OPEN in template


def recognises_v31(template: str) -> bool:
    return CALL_OPEN in template and FENCE_OPEN not in template


FORMAT = ToolFormat("deepseek_v3", read, recognises, grammar)
FORMAT_V31 = ToolFormat("deepseek_v31", read, recognises_v31, grammar_v31)
