"""gpt-oss (the harmony format): messages with a header that says on which channel they are and to whom.

    <|channel|>analysis<|message|>Weather? Call the tool.<|end|><|start|>assistant<|channel|>commentary
     to=functions.get_weather <|constrain|>json<|message|>{"city": "Paris"}<|call|>

Analysis is reasoning, commentary to a function a call, commentary to nobody and final are content. The prompt ends with
`<|start|>assistant`, so an answer begins inside a header. Source: harmony's docs/format.md; vLLM's parser `openai`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from typing import TypeAlias

from serving.tools.calls import Calls, ToolFormat, arguments_schema
from serving.tools.definitions import Tool
from serving.tools.events import Content, Reasoning
from serving.tools.json_text import json_value
from serving.tools.lark import Lark
from serving.tools.source import SPACES, Malformed, Source, Steps, Waits, told

START, CHANNEL, CONSTRAIN, MESSAGE = "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>"
ANSWER_ENDS = ("<|call|>", "<|return|>")
ENDS = ("<|end|>", *ANSWER_ENDS)
FUNCTIONS = "functions."
TO = ("to=", " to=")  # how a header goes on where the prompt ended, when not with a marker
HEADER_TEXT = re.compile(r"[\w\s.:=/-]+")
RECIPIENT = re.compile(r"\bto=([\w.:/-]+)")
ON_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
Kind: TypeAlias = type[Reasoning] | type[Content]


def read(source: Source, calls: Calls) -> Steps[None]:
    kinds: set[Kind] = set()  # of the messages so far
    marker = yield from source.accept(*TO)
    while True:
        marker = marker or (yield from told(source.until(START, CHANNEL, MESSAGE, *ENDS), Content))
        if not marker:
            return
        header = None if marker in ENDS else (yield from _read_header(source, marker))
        if header is not None:
            marker = yield from _read_body(source, calls, header, kinds)
        else:
            if marker not in ENDS and not source.at_end:  # else it was a header that the answer's end cut off
                yield Content(marker)
            marker = ""


def _read_header(source: Source, marker: str) -> Waits[str | None]:
    """From the marker to where the message's text begins; None, with nothing read, when it is no header."""
    header = marker
    source.keep()
    while marker != MESSAGE:
        header += yield from source.run(HEADER_TEXT)
        marker = yield from source.accept(START, CHANNEL, CONSTRAIN, MESSAGE)
        if not marker:
            if not source.at_end:
                source.back()
            return None
        header += marker
    source.release()
    return header


def _read_body(source: Source, calls: Calls, header: str, kinds: set[Kind]) -> Steps[str]:
    """The text of a message and the marker after it; gives that back when it begins another message."""
    channel, recipient = ON_CHANNEL.search(header), RECIPIENT.search(header)
    to = recipient[1] if recipient else ""
    name = to.removeprefix(FUNCTIONS)
    kind: Kind = Content
    if calls.wanted and to and (name != to or name in calls.tools):
        yield from _read_call(source, calls, name)
    else:
        if (channel and channel[1] == "analysis") or (to and name == to):  # tools of its own are part of its thoughts
            kind = Reasoning
        if kind in kinds:
            yield kind("\n\n")
        kinds.add(kind)
    marker = yield from told(source.until(*ENDS, START), kind)
    return marker if marker == START else ""


def _read_call(source: Source, calls: Calls, name: str) -> Steps[None]:
    """Arguments that are not JSON, or not any more, are left to be content."""
    yield from source.run(SPACES)
    if (yield from source.peek()) == "{":
        yield calls.start(name)
        with contextlib.suppress(Malformed):
            yield from told(json_value(source), calls.arguments)
    elif (yield from source.ahead(*ENDS)):
        yield calls.start(name)
        yield calls.arguments("{}")


def grammar(lark: Lark, tools: Sequence[Tool], several: bool) -> str:
    """Thoughts, if any, and one call: its end is a stop token, so there are never several."""
    calls = []
    for tool in tools:
        header = lark.text(f"{CHANNEL}commentary to={FUNCTIONS}{tool.name} {CONSTRAIN}json{MESSAGE}")
        calls.append(f"{header} {lark.json(arguments_schema(tool))}")
    return f"{_thought(lark)} {lark.either(calls)}"


def final_grammar(lark: Lark) -> str:
    """What comes before a forced text: thoughts, if any, and the header of the final message."""
    return f"{_thought(lark)} {lark.text(f'{CHANNEL}final{MESSAGE}')}"


def _thought(lark: Lark) -> str:
    opening, closing = lark.text(f"{CHANNEL}analysis{MESSAGE}"), lark.text(f"{START}assistant")
    return lark.rule(f"({opening} {lark.free_text(ENDS[0])} {closing})?")


def recognises(template: str) -> bool:
    return CHANNEL in template and MESSAGE in template and START in template


FORMAT = ToolFormat("openai", read, recognises, grammar)
