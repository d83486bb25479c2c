"""Items → chat messages, as `serving/openai` and chat templates know them.

What the model made in one turn is several items here, and one message of the assistant there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serving.openai.chat_request import ChatRequest, render
from serving.openai.prompts import encode
from serving.openai.responses.items import (
    FunctionCallItem,
    FunctionCallOutputItem,
    InputText,
    Known,
    MessageItem,
    OutputText,
    ReasoningItem,
    RefusalText,
)
from serving.reading import Tools
from serving.server import Server

ChatMessage = dict[str, Any]


def chat_messages(instructions: str | None, items: Sequence[Known]) -> list[ChatMessage]:
    chat: list[ChatMessage] = [] if instructions is None else [{"role": "system", "content": instructions}]
    names: dict[str, str] = {}  # of the called functions, by the call's id
    for item in items:
        match item:
            case MessageItem(role="assistant"):
                _turn(chat, "content", "tool_calls")["content"] = _content(item.content)
            case MessageItem():
                chat.append({"role": item.role, "content": _content(item.content)})
            case ReasoningItem():
                if thoughts := [part.text for part in item.content or item.summary]:
                    _turn(chat, "reasoning", "content", "tool_calls")["reasoning"] = "\n".join(thoughts)
            case FunctionCallItem():
                names[item.call_id] = item.name
                function = {"name": item.name, "arguments": item.arguments}
                call = {"id": item.call_id, "type": "function", "function": function}
                _turn(chat).setdefault("tool_calls", []).append(call)
            case FunctionCallOutputItem():
                message = {"role": "tool", "tool_call_id": item.call_id, "content": _content(item.output)}
                if name := item.name or names.get(item.call_id):
                    message["name"] = name
                chat.append(message)
    return chat


def _turn(chat: list[ChatMessage], *lacking: str) -> ChatMessage:
    """The assistant's message at the end, if it has none of these yet; or else a new one."""
    if not chat or chat[-1]["role"] != "assistant" or any(chat[-1].get(name) for name in lacking):
        chat.append({"role": "assistant", "content": None})
    return chat[-1]


def _content(parts: str | Sequence[InputText | OutputText | RefusalText]) -> str | list[dict[str, str]]:
    if isinstance(parts, str):
        return parts
    said = [part.refusal if isinstance(part, RefusalText) else part.text for part in parts]
    return said[0] if len(said) == 1 else [{"type": "text", "text": text} for text in said]


def continues(items: Sequence[Known]) -> bool:
    """Whether the answer goes on where the last message was cut off."""
    last = items[-1] if items else None
    return isinstance(last, MessageItem) and last.role == "assistant" and last.status != "completed"


async def drop_what_does_not_fit(server: Server, chat: ChatRequest, tools: Tools) -> None:
    """The oldest turns, each from a user's message on. The last turn stays, and what comes before the first one."""
    messages = chat.messages
    turns = [place for place, message in enumerate(messages) if message["role"] == "user"]
    output = min(chat.max_completion_tokens or 1, server.engine.max_model_len // 2)
    low, high = 0, len(turns) - 1  # turns to drop: at least, at most
    while low < high:
        middle = (low + high) // 2
        chat.messages = messages[: turns[0]] + messages[turns[middle] :]
        length = len(await encode(server, render(server, chat, tools), special=False))
        low, high = (low, middle) if length + output <= server.engine.max_model_len else (middle + 1, high)
    if turns:
        chat.messages = messages[: turns[0]] + messages[turns[low] :]
