"""What a model's way of writing asks of requests and answers: ids of calls, and tokens that end an answer."""

import re

import pytest
from fake_engine import FakeEngine

from jaxengine import AsyncEngine
from serving.reading import Formats

ASK = {"model": "demo", "temperature": 0}
CONVERSATION = [{"role": "user", "content": "Weather?"}]
SCHEMA = {
    "type": "object",
    "properties": {"on": {"type": "boolean"}},
    "required": ["on"],
    "additionalProperties": False,
}
FUNCTION = {"name": "look", "parameters": SCHEMA}
TOOL = {"type": "function", "function": FUNCTION}


def ids(served):
    """Of a call in each protocol, whole and streamed."""
    chat = served.openai.chat.completions.create
    asked = {**ASK, "messages": CONVERSATION, "max_tokens": 60, "tools": [TOOL], "tool_choice": "required"}
    (call, *_) = chat(**asked).choices[0].message.tool_calls
    yield call.id
    deltas = [chunk.choices[0].delta.tool_calls for chunk in chat(**asked, stream=True)]
    yield next(calls[0].id for calls in deltas if calls)
    tool = {"name": "look", "input_schema": SCHEMA}
    body = {**ASK, "messages": CONVERSATION, "max_tokens": 60, "tools": [tool], "tool_choice": {"type": "any"}}
    (block, *_) = served.post("/v1/messages", **body).json()["content"]
    yield block["id"]
    response = served.openai.responses.create(
        **ASK, input="Weather?", tools=[{"type": "function", **FUNCTION}], tool_choice="required", max_output_tokens=60
    )
    yield response.output[0].call_id


def test_ids_of_calls(serve):
    """Mistral's chat templates refuse a conversation with other ones than theirs."""
    made = list(ids(serve(tool_call_parser="mistral")))
    assert all(re.fullmatch("[A-Za-z0-9]{9}", id) for id in made)
    assert len(set(made)) == 4
    made = list(ids(serve(tool_call_parser="hermes")))
    assert [id.rpartition("_")[0] for id in made] == ["call", "call", "toolu", "call"]


@pytest.fixture
def harmony(serve, monkeypatch):
    """A server that reads harmony, of a model whose files do not say that <|call|> ends an answer."""
    fake = FakeEngine()
    fake.scheduler = type("Scheduler", (), {"max_num_seqs": 2})
    fake.tokenizer.templates.named["default"] = "{% for m in messages %}<{{ m.content }}>{% endfor %}"
    engine = AsyncEngine(fake)
    served = serve(engine)
    special = {"<|call|>": 5, "<|return|>": fake.tokenizer.eos_token_id, "<|end|>": 7}
    monkeypatch.setattr(served.server, "formats", Formats("openai", "openai", True, special))
    served.seen = fake.seen
    yield served
    engine.shutdown()


@pytest.mark.parametrize(
    ("changes", "stops"), [({}, {5}), ({"stop_token_ids": [9]}, {5, 9}), ({"ignore_eos": True}, set())]
)
def test_what_ends_an_answer(harmony, changes, stops):
    assert harmony.post("/v1/chat/completions", messages=CONVERSATION, **changes).status_code == 200
    (_, _, params, _, _) = harmony.seen[-1]
    assert set(params.stop_token_ids or ()) == stops
    harmony.post("/v1/completions", prompt="x")
    assert not harmony.seen[-1][2].stop_token_ids  # the text is not read there


def test_other_formats_end_as_the_model_says():
    assert Formats("hermes", "qwen3", True, {"<|call|>": 5}).ends == set()
    assert Formats(None, "openai_gptoss", True, {"<|call|>": 5, "<|return|>": 6}).ends == {5, 6}
