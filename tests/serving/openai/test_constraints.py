"""Forms of answers: what is asked for → StructuredOutputsParams, also behind the thoughts of models that think."""

import json

import pytest

from jaxengine import InvalidRequest
from jaxengine.structured_outputs import StructuredOutputsParams
from serving.openai.constraints import structured_outputs
from serving.reading import Formats, Reading, Tools

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer", "maximum": 9}}, "required": ["a"]}
TAGS = [{"begin": "<a>", "schema": {}, "end": "</a>"}]
MESSAGES = [{"role": "user", "content": "Hello"}]


def reading(prompt, reasoning="qwen3"):
    return Reading.of(Formats(reasoning=reasoning), Tools.none(), prompt)


@pytest.mark.parametrize(
    ("response_format", "expected"),
    [
        (None, None),
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"json_object": True}),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}, {"json": SCHEMA}),
        (
            {
                "type": "structural_tag",
                "structures": [{"begin": "<a>", "schema": {}, "end": "</a>"}],
                "triggers": ["<a"],
            },
            {"structural_tag": {"structures": [{"begin": "<a>", "schema": {}, "end": "</a>"}], "triggers": ["<a"]}},
        ),
    ],
)
def test_forms(response_format, expected):
    params = structured_outputs(response_format, None)
    assert params == (expected and StructuredOutputsParams(**expected))


def test_both_ways_at_once():
    with pytest.raises(InvalidRequest, match="send one of them"):
        structured_outputs({"type": "json_object"}, {"regex": "a"})


def test_thoughts_come_first_where_they_may():
    form = {"type": "json_object"}
    assert structured_outputs(form, None, reading("…<think>\n\n</think>\n\n")).json_object  # the prompt has closed them
    assert structured_outputs(form, None, reading("…", reasoning=None)).json_object
    for prompt in ("…<think>\n", "…"):
        assert "think>" in structured_outputs(form, None, reading(prompt)).grammar
    assert structured_outputs(None, {"regex": "a"}, reading("…")).regex == "a"


@pytest.mark.parametrize(
    "form",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
        {"structured_outputs": {"choice": ['{"a": 1}', '{"a": 2}']}},
    ],
)
def test_answers_behind_thoughts(serve, form):
    served = serve(reasoning_parser="qwen3")
    answer = served.post("/v1/chat/completions", messages=MESSAGES, max_tokens=100, temperature=0, **form).json()
    assert json.loads(answer["choices"][0]["message"]["content"])["a"] <= 9


def test_parsers_are_found_or_named(demo):
    from serving.config import ServerConfig

    template = demo.tokenizer.chat_template
    found = Formats.of(ServerConfig(), demo.tokenizer, template)
    assert (found.tools, found.reasoning) == ("hermes", None)
    named = Formats.of(ServerConfig(tool_call_parser="none", reasoning_parser="deepseek_r1"), None, template)
    assert (named.tools, named.reasoning) == (None, "deepseek_r1")
    with pytest.raises(InvalidRequest, match="hermes"):
        Formats.of(ServerConfig(tool_call_parser="hermed"), None, None)
