"""How the answers to a chat are read: as reasoning, content and tool calls, and what must be forced for that.

The one place where chats meet the parsers of `tools` and `reasoning`. Formats are the served model's, found once; Tools
are what a request says about calling; Reading is both for one prompt.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxengine import InvalidRequest
from jaxengine.invalid_request import shown
from jaxengine.tokenizer import Tokenizer
from serving.config import ServerConfig
from serving.reasoning import REASONING, State, detect_reasoning_parser, thinking_grammar
from serving.tools import openai
from serving.tools.definitions import ToolChoice, read_tool_choice
from serving.tools.events import CallArguments, CallStart, Event
from serving.tools.forced import ForcedCalls, forced_calls
from serving.tools.lark import Lark
from serving.tools.message import MessageParser, keeps_special_tokens, message_parser
from serving.tools.registry import FORMATS, detect_tool_parser

MISTRAL_ID = string.ascii_letters + string.digits
OFF = "none"  # as the name of a parser: none, whatever the template looks like


@dataclass(frozen=True)
class Formats:
    """How the served model writes. `special_tokens`: the tokenizer's, text → id."""

    tools: str | None = None
    reasoning: str | None = None
    auto_tools: bool = True
    special_tokens: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, config: ServerConfig, tokenizer: Tokenizer | None, template: str | None) -> Formats:
        """The parsers that were named, or those that the chat template tells. Raises InvalidRequest."""
        tools = _named("tool_call_parser", config.tool_call_parser, FORMATS)
        reasoning = _named("reasoning_parser", config.reasoning_parser, REASONING)
        if tools is None and template is not None:
            tools = detect_tool_parser(template)
        if reasoning is None and template is not None:
            reasoning = detect_reasoning_parser(template)
        special = {} if tokenizer is None else {tokenizer.added_tokens[id]: id for id in tokenizer.special_ids}
        return cls(
            None if tools == OFF else tools,
            None if reasoning == OFF else reasoning,
            config.enable_auto_tool_choice,
            special,
        )

    def call_id(self, prefix: str = "call_") -> str:
        """Of a call that the model makes, as its chat template wants it back."""
        if self.tools == "mistral":  # whose templates refuse all but nine letters and digits
            return "".join(secrets.choice(MISTRAL_ID) for _ in range(9))
        return f"{prefix}{secrets.token_hex(12)}"

    @property
    def ends(self) -> set[int]:
        """Tokens that end an answer beside the model's own: harmony's, where the model's files do not name them."""
        if openai.FORMAT.name not in (self.tools, self.reasoning) and self.reasoning != "openai_gptoss":
            return set()
        return {self.special_tokens[end] for end in openai.ANSWER_ENDS if end in self.special_tokens}


@dataclass(frozen=True)
class Tools:
    """A request's tools and what it says about calling them. `given`: its `tool_choice`."""

    definitions: Sequence[dict[str, Any]]
    given: Any
    choice: ToolChoice

    @classmethod
    def of(cls, formats: Formats, definitions: Sequence[dict[str, Any]], given: Any, parallel: bool = True) -> Tools:
        """Raises InvalidRequest for what is no tool, and for calls that could not be read."""
        for place, definition in enumerate(definitions):
            _check_tool(definition, place)
        choice = read_tool_choice(given, definitions, parallel=parallel)
        if choice.mode == "auto" and not formats.auto_tools:
            raise InvalidRequest("tool_choice", "this server leaves it to no model", "use none, required or a function")
        if choice.mode == "auto" and formats.tools is None:
            problem = "how this model calls them is not known"
            raise InvalidRequest("tools", problem, "use tool_choice none or required, or start with --tool-call-parser")
        return cls(definitions, given, choice)

    @classmethod
    def none(cls, definitions: Sequence[dict[str, Any]] = ()) -> Tools:
        """Nothing is to be called."""
        return cls(definitions, "none", ToolChoice("none", {}))


@dataclass(frozen=True)
class Reading:
    """For the answers to one prompt. `continued`: what the prompt already holds of the answer."""

    formats: Formats
    tools: Tools
    prompt: str
    continued: str
    forced: ForcedCalls | None

    @classmethod
    def of(cls, formats: Formats, tools: Tools, prompt: str, continued: str = "") -> Reading:
        forced = forced_calls(
            tools.given,
            tools.definitions,
            formats.tools,
            reasoning=formats.reasoning,
            prompt=prompt,
            continued=continued,
            parallel=not tools.choice.single,
            special_tokens=formats.special_tokens,
        )
        return cls(formats, tools, prompt, continued, forced)

    @property
    def sampling(self) -> dict[str, Any]:
        """SamplingParams' fields without which the answers could not be read."""
        fields: dict[str, Any] = {}
        if keeps_special_tokens(tools=self._format, reasoning=self.formats.reasoning):
            fields["skip_special_tokens"] = False
        if self.forced is not None:
            fields["structured_outputs"] = self.forced.structured_outputs
        return fields

    def parser(self) -> MessageParser:
        """For one answer."""
        return message_parser(
            tools=self._format,
            reasoning=self.formats.reasoning,
            tool_definitions=self.tools.definitions,
            prompt=self.prompt,
            continued=self.continued,
        )

    def wanted(self, events: Iterable[Event]) -> list[Event]:
        """Without the calls after the first one where there may be only one."""
        if not self.tools.choice.single:
            return list(events)
        return [event for event in events if not (isinstance(event, CallStart | CallArguments) and event.index)]

    def thoughts(self, lark: Lark) -> str:
        """What the model writes before the answer proper, as a rule of the grammar; "" for nothing."""
        name = self.formats.reasoning
        thinking = REASONING[name] if name is not None else None
        state = State.AFTER if thinking is None else thinking.state(self.prompt, self.continued)
        return "" if thinking is None or state is State.AFTER else thinking_grammar(lark, thinking, state)

    @property
    def _format(self) -> str | None:
        if self.forced is not None:
            return self.forced.tools
        return None if self.tools.choice.mode == "none" else self.formats.tools


def _named(field: str, name: str | None, known: Iterable[str]) -> str | None:
    if name is not None and name != OFF and name not in known:
        raise InvalidRequest(field, f"got {name!r}", f"use one of {', '.join(known)}, or {OFF}")
    return name


def _check_tool(tool: dict[str, Any], place: int) -> None:
    function = tool.get("function")
    known = tool.get("type", "function") == "function" and isinstance(function, dict)
    name = function.get("name") if known and isinstance(function, dict) else None
    if not isinstance(name, str) or not name:
        raise InvalidRequest(
            "tools", f"tool {place} is {shown(tool)}", 'send {"type": "function", "function": {"name": …}}'
        )
