"""Messages as clients send them → as chat templates know them.

Every part of a message is either understood or refused by name; what templates make of roles and tool calls is theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxengine import InvalidRequest
from jaxengine.invalid_request import shown

TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}  # type of a part → its key


def read_messages(messages: Sequence[dict[str, Any]], template: str) -> list[dict[str, Any]]:
    """Copies; the `developer` is the `system` to templates that do not know him. Raises InvalidRequest."""
    if not messages:
        raise InvalidRequest("messages", "the conversation is empty", "send at least one message")
    return [_message(message, place, template) for place, message in enumerate(messages)]


def _message(message: dict[str, Any], place: int, template: str) -> dict[str, Any]:
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or not role:
        raise InvalidRequest("messages", f"message {place} has no role", 'send {"role": …, "content": …}')
    read = dict(message)
    if role == "developer" and "developer" not in template:
        read["role"] = "system"
    if isinstance(content, list):
        read["content"] = [_part(part, place) for part in content if not _is_thought(part)]
        thoughts = [part["thinking"] for part in content if _is_thought(part)]
        if thoughts and read.get("reasoning") is None:
            read["reasoning"] = "\n".join(thoughts)
    elif content is not None and not isinstance(content, str):
        raise InvalidRequest(
            "messages", f"message {place} has content {shown(content)}", "send text or a list of parts"
        )
    if content is None and not message.get("tool_calls") and role != "assistant":
        raise InvalidRequest("messages", f"message {place} has no content", "send text or a list of parts")
    _check_calls(message.get("tool_calls"), place)
    return read


def _part(part: Any, place: int) -> dict[str, str]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    kind = part.get("type", "text") if isinstance(part, dict) else type(part).__name__
    text = part.get(TEXTS[kind]) if isinstance(part, dict) and isinstance(kind, str) and kind in TEXTS else None
    if not isinstance(text, str):
        raise InvalidRequest("messages", f"message {place} has a part of type {shown(kind)}", "send parts of type text")
    return {"type": "text", "text": text}


def _is_thought(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "thinking" and isinstance(part.get("thinking"), str)


def _check_calls(calls: Any, place: int) -> None:
    if calls is None:
        return
    for call in calls if isinstance(calls, list) else [None]:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InvalidRequest(
                "messages",
                f"message {place}: {shown(call)} is no tool call",
                'send {"id": …, "type": "function", "function": {"name": …, "arguments": …}}',
            )
