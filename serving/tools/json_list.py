"""The answer of a model with no format of its own that is made to call: a JSON list of calls and nothing else.

    [{"name": "get_weather", "arguments": {"city": "Paris"}}]

Source: vLLM's answer to `tool_choice: required`.
"""

from __future__ import annotations

from serving.tools.calls import Calls, ToolFormat, attempt, json_calls, list_grammar
from serving.tools.events import Content
from serving.tools.source import SPACES, Source, Steps, skip, told


def read(source: Source, calls: Calls) -> Steps[None]:
    yield from attempt(source, calls, _read_list)
    yield from told(source.until(), Content)


def _read_list(source: Source, calls: Calls) -> Steps[None]:
    yield from source.run(SPACES)
    yield from source.expect("[")
    yield from source.run(SPACES)
    yield from json_calls(source, calls, ",", marked=False)
    yield from skip(source, "]")


FORMAT = ToolFormat("json_list", read, lambda template: False, list_grammar, keeps_special_tokens=False)
