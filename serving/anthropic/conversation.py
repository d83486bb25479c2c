"""Anthropic's messages → chat messages, as `serving/openai` and chat templates know them.

Results of calls are parts of the user's message there, and messages of their own here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, Literal

from msgspec import Struct

from jaxengine import InvalidRequest
from serving.anthropic.blocks import Given, TextBlock, ThinkingBlock, ToolResultBlock, ToolUseBlock, joined

ERROR = "Error: "  # chat templates cannot say otherwise that a call failed


class MessageParam(Struct, kw_only=True, forbid_unknown_fields=True):
    role: Literal["user", "assistant", "system"]
    content: str | list[Given]


def chat_messages(system: str | list[TextBlock] | None, messages: Sequence[MessageParam]) -> list[dict[str, Any]]:
    """Neighbours of one role become one message, as the protocol has it. Raises InvalidRequest."""
    chat = [{"role": "system", "content": joined(system)}] if system else []
    names: dict[str, str] = {}  # of the called tools, by the call's id
    for role, group in groupby(messages, key=lambda message: message.role):
        blocks = [block for message in group for block in _blocks(message.content)]
        if role == "assistant":
            names |= {block.id: block.name for block in blocks if isinstance(block, ToolUseBlock)}
            chat.append(_answer(blocks))
        else:
            chat.extend(_said(role, blocks, names))
    return chat


def continues(chat: Sequence[dict[str, Any]]) -> bool:
    """Whether the answer goes on where the last message ends. Raises InvalidRequest where it cannot."""
    if not chat or chat[-1]["role"] != "assistant":
        return False
    if chat[-1]["content"] and "tool_calls" not in chat[-1]:
        return True
    problem = "the last one is the assistant's and has no text to continue"
    raise InvalidRequest("messages", problem, "send the user's turn or the results of the calls")


def _blocks(content: str | list[Given]) -> list[Given]:
    return [TextBlock(text=content)] if isinstance(content, str) else content


def _answer(blocks: Iterable[Given]) -> dict[str, Any]:
    texts, thoughts, calls = [], [], []
    for block in blocks:
        match block:
            case TextBlock(text=text):
                texts.append(text)
            case ThinkingBlock(thinking=thinking):
                thoughts.append(thinking)
            case ToolUseBlock(id=id, name=name, input=arguments):
                calls.append({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
            case ToolResultBlock():
                raise InvalidRequest("messages", "the assistant has a tool_result", "put it into the user's message")
    message: dict[str, Any] = {"role": "assistant", "content": "\n".join(texts)}
    if thoughts:
        message["reasoning"] = "\n".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return message


def _said(role: str, blocks: Iterable[Given], names: dict[str, str]) -> Iterator[dict[str, Any]]:
    for kind, group in groupby(blocks, key=type):
        if kind is TextBlock:
            yield {"role": role, "content": joined([block for block in group if isinstance(block, TextBlock)])}
        elif kind is ToolResultBlock and role == "user":
            for block in group:
                assert isinstance(block, ToolResultBlock)
                yield _result(block, names)
        else:
            problem = f"the {role} has a {next(group).__struct_config__.tag}"
            raise InvalidRequest("messages", problem, "thoughts and calls are the assistant's, results the user's")


def _result(block: ToolResultBlock, names: dict[str, str]) -> dict[str, Any]:
    text = joined(block.content)
    message = {"role": "tool", "tool_call_id": block.tool_use_id, "content": ERROR + text if block.is_error else text}
    if block.tool_use_id in names:
        message["name"] = names[block.tool_use_id]
    return message
