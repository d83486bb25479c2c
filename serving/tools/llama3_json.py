"""Llama 3.1 to 3.3 and Llama 4: the answer is a JSON object, or several with semicolons between them.

    {"name": "get_weather", "parameters": {"city": "Paris"}}

After a text, `<|python_tag|>` stands before it. Source: Llama 3.1's chat template; vLLM's parser `llama3_json`. Here an
object without the tag is a call only if a tool has its name.
"""

from __future__ import annotations

from collections.abc import Sequence

from serving.tools.calls import Calls, ToolFormat, attempt, call_grammar, calls_within, json_calls
from serving.tools.definitions import Tool
from serving.tools.lark import Lark
from serving.tools.source import SPACES, Source, Steps

TAG = "<|python_tag|>"


def read(source: Source, calls: Calls) -> Steps[None]:
    yield from attempt(source, calls, _read_bare)
    yield from calls_within(source, calls, {TAG: _read_tagged})


def _read_bare(source: Source, calls: Calls) -> Steps[None]:
    yield from source.run(SPACES)
    yield from json_calls(source, calls, ";", ",", marked=False)


def _read_tagged(source: Source, calls: Calls) -> Steps[None]:
    yield from source.run(SPACES)
    yield from json_calls(source, calls, ";", ",")


def grammar(lark: Lark, tools: Sequence[Tool], several: bool) -> str:
    call = call_grammar(lark, tools, "parameters")
    return lark.several(call, lark.text("; ")) if several else call


def recognises(template: str) -> bool:
    return '"parameters": ' in template and ("<|start_header_id|>" in template or "<|header_start|>" in template)


FORMAT = ToolFormat("llama3_json", read, recognises, grammar)
