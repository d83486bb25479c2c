"""Anthropic's blocks as chat messages."""

import msgspec
import pytest

from jaxengine import InvalidRequest
from serving.anthropic.conversation import MessageParam, chat_messages, continues

USER = {"role": "user", "content": "Hi"}
CALL = {"type": "tool_use", "id": "1", "name": "look", "input": {"at": "it"}}
THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": "x"}


def text(text):
    return {"type": "text", "text": text}


def read(*messages, system=None):
    return chat_messages(system, msgspec.convert(messages, list[MessageParam]))


def test_a_conversation_with_calls():
    result = {"type": "tool_result", "tool_use_id": "1", "content": "seen"}
    failed = {"type": "tool_result", "tool_use_id": "2", "content": [text("no"), text("way")], "is_error": True}
    hidden = {"type": "redacted_thinking", "data": "…"}
    assert read(
        USER,
        {"role": "assistant", "content": [THOUGHT, hidden, text("I look."), CALL]},
        {"role": "user", "content": [result, failed, text("And?"), text("Now?")]},
        system="Be brief.",
    ) == [
        {"role": "system", "content": "Be brief."},
        USER,
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning": "Hm.",
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "look", "arguments": {"at": "it"}}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "seen", "name": "look"},
        {"role": "tool", "tool_call_id": "2", "content": "Error: no\nway"},
        {"role": "user", "content": "And?\nNow?"},
    ]


def test_neighbours_of_one_role_are_one_message():
    assert read(USER, USER, {"role": "system", "content": "Now."}) == [
        {"role": "user", "content": "Hi\nHi"},
        {"role": "system", "content": "Now."},
    ]


def test_what_an_answer_continues():
    assert not continues(read(USER))
    assert continues(read(USER, {"role": "assistant", "content": "I"}))
    for content in ([THOUGHT], [text("I"), CALL], ""):
        with pytest.raises(InvalidRequest, match="no text to continue"):
            continues(read(USER, {"role": "assistant", "content": content}))
