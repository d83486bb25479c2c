"""Items of requests: how they are read, and the chat messages that they become."""

import pytest

from serving.openai.responses.conversation import chat_messages, continues
from serving.openai.responses.items import read_items

CALL = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"at": 1}'}
CHAT_CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "fine"}]}
THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]}


def said(text, role="assistant", **more):
    return {"role": role, "content": text, **more}


def read(items):
    return read_items(items, lambda id: None)


@pytest.mark.parametrize(
    ("items", "messages"),
    [
        ([said("a", "user"), said("b"), said("c")], [said("a", "user"), said("b"), said("c")]),
        ([THOUGHT, said("b"), CALL], [said("b", reasoning="Hm.", tool_calls=[CHAT_CALL])]),
        ([CALL, CALL], [said(None, tool_calls=[CHAT_CALL, CHAT_CALL])]),
        (
            [THOUGHT, CALL, RESULT, THOUGHT, said("b")],
            [
                said(None, reasoning="Hm.", tool_calls=[CHAT_CALL]),
                {"role": "tool", "tool_call_id": "c1", "name": "look", "content": "fine"},
                said("b", reasoning="Hm."),
            ],
        ),
        ([said("b"), THOUGHT, said("c")], [said("b"), said("c", reasoning="Hm.")]),
        (
            [{**THOUGHT, "content": None, "summary": [{"type": "summary_text", "text": "S"}]}],
            [said(None, reasoning="S")],
        ),
        ([{"type": "reasoning"}], []),
        (
            [said([{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}], "developer")],
            [said([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "developer")],
        ),
        ([said([{"type": "refusal", "refusal": "no"}])], [said("no")]),
    ],
)
def test_messages(items, messages):
    assert chat_messages(None, read(items)) == messages
    assert chat_messages("Obey.", read(items)) == [said("Obey.", "system"), *messages]


def test_what_is_read():
    """Clients write fields that they do not know as null."""
    (text,) = read("Hi")
    (message,) = read([said([{"type": "output_text", "text": "Hi", "annotations": None}], phase=None, id=None)])
    assert (text.role, text.content[0].text, text.status) == ("user", "Hi", "completed")
    assert (message.content[0].annotations, message.id[:4]) == ([], "msg_")
    assert [item.id[: item.id.index("_")] for item in read([CALL, RESULT, THOUGHT])] == ["fc", "fco", "rs"]


def test_what_is_continued():
    for status, goes_on in (("completed", False), ("incomplete", True), ("in_progress", True)):
        assert continues(read([said("a", "user"), said("b", status=status)])) == goes_on
        assert not continues(read([said("a", "user", status=status)]))
        assert not continues(read([{**CALL, "status": status}]))
    assert not continues([])
