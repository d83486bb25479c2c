"""From an answer's text to its events: `message_parser` for streams, `parse_message` for whole answers.

The server makes one parser a choice. It reads a thinking block first (`serving/reasoning.py`), then what the model's
tool format says, from one Source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from serving.reasoning import REASONING, read_thinking
from serving.tools import openai
from serving.tools.calls import Calls
from serving.tools.definitions import read_tools
from serving.tools.events import Content, Event, Message, Seams, fold, merged
from serving.tools.registry import FORMATS
from serving.tools.source import Source, Steps, told


class MessageParser(Protocol):
    """Takes the text of one answer as it comes. It never raises, whatever a model writes."""

    def feed(self, text: str) -> list[Event]:
        """What the next piece of text makes certain."""

    def finish(self) -> list[Event]:
        """The rest, when there is no more text."""


class PlainParser:
    """For models and requests without tools and reasoning: all text is content, at once."""

    def feed(self, text: str) -> list[Event]:
        return [Content(text)] if text else []

    def finish(self) -> list[Event]:
        return []


class StepParser:
    """Runs a generator of events over a Source."""

    def __init__(self, read: Callable[[Source], Steps[None]]) -> None:
        self._source = Source()
        self._steps = read(self._source)
        self._seams = Seams()

    def feed(self, text: str) -> list[Event]:
        self._source.push(text)
        return merged(self._advance())

    def finish(self) -> list[Event]:
        self._source.end()
        return merged([*self._advance(), *self._seams.finish()])

    def _advance(self) -> list[Event]:
        events: list[Event] = []
        for event in self._steps:
            if event is None:
                break
            events += self._seams.pass_on(event)
        return events


def message_parser(
    *,
    tools: str | None,
    reasoning: str | None,
    tool_definitions: Iterable[Mapping[str, Any]] = (),
    prompt: str | None = None,
    continued: str = "",
) -> MessageParser:
    """A parser for one answer.

    tools: the name of the tool format; None when calls are not wanted (no tools, or `tool_choice: none`).
    reasoning: the name of the reasoning parser, or None.
    tool_definitions: the request's tools, for the types of their arguments.
    prompt: the prompt's text, or its tail: it tells whether thinking has already begun. None: not known.
    continued: what the prompt already holds of the answer itself (continue_final_message).
    Raises KeyError for names that are none.
    """
    if tools is None and reasoning is None:
        return PlainParser()
    tool_format = FORMATS[tools] if tools else None
    thinking = REASONING[reasoning] if reasoning else None
    if tool_format is openai.FORMAT or thinking is REASONING["openai"]:  # one format for both
        tool_format, thinking = openai.FORMAT, None
    definitions = read_tools(tool_definitions)

    def read(source: Source) -> Steps[None]:
        if thinking:
            ends = tool_format.ends_reasoning if tool_format else ()
            yield from read_thinking(source, thinking, thinking.state(prompt, continued), ends)
        if tool_format:
            yield from tool_format.read(source, Calls(source, definitions, wanted=tools is not None))
        else:
            yield from told(source.until(), Content)

    return StepParser(read)


def parse_message(text: str, **options: Any) -> Message:
    """A whole answer; the options are `message_parser`'s."""
    parser = message_parser(**options)
    return fold([*parser.feed(text), *parser.finish()])


def keeps_special_tokens(*, tools: str | None, reasoning: str | None) -> bool:
    """Whether the answer's text must be made with skip_special_tokens=False to be understood."""
    return bool(
        (tools and FORMATS[tools].keeps_special_tokens) or (reasoning and REASONING[reasoning].keeps_special_tokens)
    )
