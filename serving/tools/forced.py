"""Calls that a request demands (`tool_choice` required, or a function by name): what the model must write, and how
the answer is then read.

The grammar is of the model's own format, its thinking included, so the same parser reads forced and free answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.reasoning import REASONING, thinking_grammar
from serving.tools import json_list, openai
from serving.tools.definitions import read_tool_choice
from serving.tools.lark import Lark
from serving.tools.registry import FORMATS


@dataclass(frozen=True)
class ForcedCalls:
    """`structured_outputs`: the fields of StructuredOutputsParams. `tools`: the parser for `message_parser`."""

    structured_outputs: dict[str, Any]
    tools: str


def forced_calls(
    tool_choice: str | Mapping[str, Any] | None,
    tools: Sequence[Mapping[str, Any]],
    parser: str | None,
    *,
    reasoning: str | None = None,
    prompt: str | None = None,
    continued: str = "",
    parallel: bool = True,
    special_tokens: Mapping[str, int] | None = None,
) -> ForcedCalls | None:
    """What makes a model call; None where it need not (none, auto).

    parser, reasoning, prompt, continued: as for `message_parser`. Without a parser the answer is a JSON list of calls.
    parallel: whether there may be several calls; a function by name is called once.
    special_tokens: the tokenizer's special tokens, by text: a model must write these, and not their spelling.
    Raises InvalidRequest for a tool_choice that is none, or names a function that is not among the tools.
    """
    choice = read_tool_choice(tool_choice, tools, parallel=parallel)
    if choice.mode != "required":
        return None
    tool_format = FORMATS[parser] if parser else json_list.FORMAT
    wanted = list(choice.tools.values())
    thinking = REASONING[reasoning] if reasoning and tool_format is not openai.FORMAT else None
    lark = Lark(special_tokens)
    before = thinking_grammar(lark, thinking, thinking.state(prompt, continued)) if thinking else ""
    calls = tool_format.grammar(lark, wanted, not choice.single)
    return ForcedCalls({"grammar": lark.grammar(f"{before} {calls}")}, tool_format.name)
