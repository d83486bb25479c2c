"""Hermes, Qwen 2.5 and Qwen 3: one JSON object between tags for each call.

    <tool_call>
    {"name": "get_weather", "arguments": {"city": "Paris"}}
    </tool_call>

Source: the chat templates of Hermes-2-Pro and Qwen3; vLLM's parser `hermes`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from serving.tools.calls import Calls, ToolFormat, call_grammar, calls_within, json_calls
from serving.tools.definitions import Tool
from serving.tools.lark import Lark
from serving.tools.source import SPACES, Source, Steps, skip

OPEN, CLOSE = "<tool_call>", "</tool_call>"
SURPLUS = re.compile(r"[\s}\]]+")  # Qwen sometimes closes a bracket too many


def read(source: Source, calls: Calls) -> Steps[None]:
    yield from calls_within(source, calls, {OPEN: _read_call}, closings=(CLOSE,))


def _read_call(source: Source, calls: Calls) -> Steps[None]:
    yield from source.run(SPACES)
    yield from json_calls(source, calls, ",")
    yield from source.run(SURPLUS)
    yield from skip(source, CLOSE)


def grammar(lark: Lark, tools: Sequence[Tool], several: bool) -> str:
    opening, closing = lark.text(OPEN + "\n"), lark.text("\n" + CLOSE)
    call = lark.rule(f"{opening} {call_grammar(lark, tools)} {closing}")
    return lark.several(call, lark.text("\n")) if several else call


def recognises(template: str) -> bool:
    return OPEN in template and "arguments" in template and "<tool_calls>" not in template


FORMAT = ToolFormat("hermes", read, recognises, grammar)
