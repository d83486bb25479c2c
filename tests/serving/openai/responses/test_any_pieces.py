"""However an answer is cut into pieces, and however late its text comes: the same response, and events that tell it."""

import asyncio
import json

import pytest
from fake_engine import FakeEngine
from hypothesis import given, settings
from hypothesis import strategies as st
from requests_for import CALL, LOGPROBS, TALE, WEATHER

from jaxengine.request import CompletionOutput, Logprob, RequestOutput
from serving.bodies import decode
from serving.config import ServerConfig
from serving.openai.responses.answers import ResponseAnswer
from serving.openai.responses.items import read_items
from serving.openai.responses.request import ResponsesRequest, response_job
from serving.server import Server

PLAIN = "Just –🦊 words."  # the fox is several tokens
TEXTS = [
    TALE,
    PLAIN,
    f"{CALL}\n And then? <b>",
    f"First.\n{CALL}\nThen.",
    "<think>never ends: é",
    "<tool_call>\n{broken",
    "",
]


@pytest.fixture(scope="module")
def server():
    engine = FakeEngine()
    engine.tokenizer.templates.named["default"] = "{% for m in messages %}{{ m.content }}{% endfor %}"
    return Server(engine, ServerConfig(tool_call_parser="hermes", reasoning_parser="qwen3"))


def answered(server, text, cuts, late, include):
    """(the response, its events): tokens come in pieces that end at `cuts`, their text so many characters later."""
    body = decode(json.dumps({"input": "x", "tools": [WEATHER], "include": include}).encode(), ResponsesRequest)
    tokens = server.tokenizer.encode(text, add_special_tokens=False)

    async def outputs():
        shown = 0
        places = sorted({cut % len(tokens) for cut in cuts} - {0}) if tokens else []
        for begin, end in zip([0, *places], [*places, len(tokens)], strict=True):
            last = end == len(tokens)
            whole = server.tokenizer.decode(tokens[:end]).rstrip("\ufffd")
            upto = len(whole) if last else max(len(whole) - late, shown)
            likely = [{token: Logprob(-1.0, 1, None)} for token in tokens[begin:end]] if include else None
            piece = CompletionOutput(0, whole[shown:upto], tokens[begin:end], 0.0, likely, "stop" if last else None)
            shown = upto
            yield 0, RequestOutput("x", "x", [1], None, [piece], last)

    async def run():
        job, reading = await response_job(server, "resp_x", body, read_items("x", lambda id: None))
        answer = ResponseAnswer(server, body, job, reading, stored=False)
        events = [event async for some in answer.events(outputs()) for event in some]
        return answer.response, [json.loads(event.split(b"data: ")[1]) for event in events]

    return asyncio.run(run())


def told(events):
    """What the deltas add up to, item by item."""
    items = []
    for event in events:
        kind = event["type"].removeprefix("response.")
        if kind == "output_item.added":
            assert event["output_index"] == len(items)
            items.append({"id": event["item"]["id"], "text": "", "logprobs": []})
        elif kind.endswith((".delta", ".done")) and kind != "output_item.done":
            assert (event["item_id"], event["output_index"]) == (items[-1]["id"], len(items) - 1)
        if kind.endswith(".delta"):
            items[-1]["text"] += event["delta"]
            items[-1]["logprobs"] += event.get("logprobs", [])
    return items


def shape(response):
    """Without ids."""
    shapes = []
    for item in response.output:
        if item.__struct_config__.tag == "function_call":
            shapes.append((item.status, item.name, item.arguments))
        else:
            (part,) = item.content
            shapes.append((item.status, part.__struct_config__.tag, part.text, getattr(part, "logprobs", [])))
    return shapes, response.usage, response.status


@pytest.mark.parametrize("include", [[], LOGPROBS])
@pytest.mark.parametrize("text", TEXTS)
@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, 500), max_size=30), late=st.integers(0, 9))
def test_any_pieces(server, text, cuts, late, include):
    whole, _ = answered(server, text, [], 0, include)
    response, events = answered(server, text, cuts, late, include)
    assert shape(response) == shape(whole)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["response"]["output"] == [
        event["item"] for event in events if event["type"].endswith("item.done")
    ]
    for item, heard in zip(response.output, told(events), strict=True):
        if item.__struct_config__.tag == "function_call":
            assert heard["text"] == item.arguments
        else:
            (part,) = item.content
            assert heard["text"] == part.text
            assert len(heard["logprobs"]) == len(getattr(part, "logprobs", []))
    if include and text == PLAIN:
        assert b"".join(bytes(each["bytes"]) for each in told(events)[0]["logprobs"]).decode() == text
