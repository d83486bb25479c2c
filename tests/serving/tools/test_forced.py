"""Answers that a request demands: what the grammars allow is what models write, and the same parsers read it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models_write import TOOLS, WRITERS, mistral_v11, mistral_v13, openai_to_first, pythonic_repr

from jaxengine import InvalidRequest
from serving.tools.forced import ForcedCalls, forced_calls
from serving.tools.message import parse_message

llguidance = pytest.importorskip("llguidance")
NOT_ASKED_FOR = (mistral_v11, mistral_v13, openai_to_first, pythonic_repr)  # other ways of writing
FORCED = [write for write in WRITERS if write not in NOT_ASKED_FOR]
# a schema that does not forbid other properties allows them where arguments are JSON
LOOSE = [write for write in FORCED if write.__name__ not in ("glm45", "glm47", "qwen3_xml", "pythonic")]
BYTES = llguidance.LLTokenizer("byte")

texts = st.text(st.characters(codec="utf-8", exclude_categories=["C"], exclude_characters="\n\\"), max_size=12)
optional = {
    "days": st.integers(-99, 99),
    "metric": st.booleans(),
    "where": st.fixed_dictionaries({}, optional={"lat": st.integers(0, 9)}),
    "tags": st.lists(texts, max_size=2),
}
arguments = st.fixed_dictionaries({"city": texts}, optional=optional).map(  # grammars keep to the schema's order
    lambda given: {name: given[name] for name in ("city", *optional) if name in given}
)
calls = st.lists(
    st.one_of(st.tuples(st.just("get_weather"), arguments), st.tuples(st.just("srv.now/utc-time:v2"), st.just({}))),
    min_size=1,
    max_size=3,
)


def accepts(forced: ForcedCalls, text: str) -> bool:
    """Whether a model that is held to the constraint could write this and stop."""
    grammar = llguidance.LLMatcher.grammar_from_lark(forced.structured_outputs["grammar"])
    matcher = llguidance.LLMatcher(BYTES, grammar)
    assert not matcher.is_error(), matcher.get_error()
    tokens = list(text.encode())
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


def forced(write: Any, choice: Any = "required", **options: Any) -> ForcedCalls:
    found = forced_calls(choice, TOOLS, WRITERS[write], **options)
    assert found is not None
    return found


def written(write: Any, wanted: list[tuple[str, dict[str, Any]]]) -> str:
    """What comes out of the engine: without identifiers, which nobody asks for, and without the stop token."""
    return (
        write(wanted)
        .replace("[TOOL_CALLS] [", "[TOOL_CALLS][")
        .replace(', "id": "a1b2c3d4e"', "")
        .replace("<|call|>", "")
    )


@pytest.mark.parametrize("write", FORCED, ids=lambda write: write.__name__)
@settings(max_examples=40, deadline=None)
@given(wanted=calls)
def test_what_a_model_writes_is_allowed_and_read_back(write, wanted) -> None:
    name = WRITERS[write]
    wanted = wanted[:1] if name == "openai" else wanted  # gpt-oss stops after each call
    text = written(write, wanted)
    assert accepts(forced(write), text), text
    message = parse_message(text, tools=name, reasoning=None, tool_definitions=TOOLS)
    assert [(call.name, json.loads(call.arguments)) for call in message.calls] == wanted
    assert message.content is None


@pytest.mark.parametrize("write", FORCED, ids=lambda write: write.__name__)
def test_nothing_else_is_allowed(write) -> None:
    rome, now = ("get_weather", {"city": "Rome"}), ("srv.now/utc-time:v2", {})
    demanded = forced(write)
    assert not accepts(demanded, "")
    assert not accepts(demanded, "I cannot call.")
    assert not accepts(demanded, written(write, [("other", {})]))
    assert not accepts(demanded, written(write, [("get_weather", {"days": 1})])), "a required argument is missing"
    assert not accepts(demanded, written(write, [("get_weather", {"city": "Rome", "days": "many"})]))
    assert not accepts(demanded, written(write, [("get_weather", {"city": "Rome", "lost": 1})])) or write in LOOSE
    one = forced(write, parallel=False)
    assert accepts(one, written(write, [now]))
    assert not accepts(one, written(write, [rome, rome]))
    named = forced(write, {"type": "function", "function": {"name": "get_weather"}})
    assert accepts(named, written(write, [rome]))
    assert not accepts(named, written(write, [now]))
    assert not accepts(named, written(write, [rome, rome]))


def test_thinking_comes_first_where_the_prompt_leaves_room_for_it() -> None:
    text = '<tool_call>\n{"name": "srv.now/utc-time:v2", "arguments": {}}\n</tool_call>'

    def allowed(prompt: str, before: str) -> bool:
        found = forced_calls("required", TOOLS, "hermes", reasoning="qwen3", prompt=prompt)
        assert found is not None
        return accepts(found, before + text)

    assert allowed("assistant\n", "<think>\nhm < 3\n</think>\n\n")
    assert allowed("assistant\n", "")
    assert not allowed("assistant\n", "hm")
    assert allowed("<think>\n", "hm\n</think>\n\n")
    assert allowed("<think>\n\n</think>\n\n", "")
    assert not allowed("<think>\n\n</think>\n\n", "<think>hm</think>")


def test_gpt_oss_may_think_on_its_channel() -> None:
    found = forced_calls("required", TOOLS, "openai", reasoning="openai")
    assert found is not None
    thought = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
    call = "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
    assert accepts(found, thought + call + '{"city": "Rome"}')


class Vocabulary:
    """Bytes, an end of text, and special tokens: what llguidance asks of a tokenizer."""

    eos_token_id, bos_token_id = 256, None

    def __init__(self, names: list[str]) -> None:
        self.tokens = [bytes([byte]) for byte in range(256)] + [b"\xff" + name.encode() for name in ("<eos>", *names)]
        self.special_token_ids = list(range(256, len(self.tokens)))

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


BY_ID = {
    "mistral": ["[THINK]", "hm]", "[/THINK]", "[TOOL_CALLS]", "get_weather", "[ARGS]", '{"city": "Rome"}'],
    "openai": [
        *("<|channel|>", "analysis", "<|message|>", "hm\n", "<|end|>", "<|start|>", "assistant", "<|channel|>"),
        *("commentary to=functions.get_weather ", "<|constrain|>", "json", "<|message|>", '{"city": "Rome"}'),
    ],
    "glm45": [
        *("<think>", "hm\n", "</think>", "\n", "<tool_call>", "get_weather\n", "<arg_key>", "city", "</arg_key>", "\n"),
        *("<arg_value>", "Rome\n", "</arg_value>", "\n", "</tool_call>"),
    ],
}


@pytest.mark.parametrize(("name", "pieces"), BY_ID.items(), ids=BY_ID)
def test_special_tokens_are_written_by_id(name: str, pieces: list[str]) -> None:
    """Where markers are tokens, the model must write these, and not their spelling."""
    special = {piece: 257 + place for place, piece in enumerate(pieces) if piece[0] in "[<"}
    found = forced_calls("required", TOOLS, name, reasoning=name, prompt="", special_tokens=special)
    assert found is not None
    names = [next((text for text, id in special.items() if id == place), f"<{place}>") for place in range(257, 290)]
    tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(Vocabulary(names)), eos_token=[256])
    for spelled in (False, True):
        grammar = llguidance.LLMatcher.grammar_from_lark(found.structured_outputs["grammar"])
        matcher = llguidance.LLMatcher(tokenizer, grammar)
        tokens = []
        for piece in pieces:
            tokens += list(piece.encode()) if spelled or piece not in special else [special[piece]]
        whole = matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()
        assert whole is not spelled


def test_schemas_may_refer_to_their_own_definitions() -> None:
    """As those that pydantic makes do. Definitions of two tools may have one name."""
    tools = [
        {
            "type": "function",
            "function": {
                "name": name,
                "parameters": {
                    "type": "object",
                    "properties": {"item": {"$ref": "#/$defs/Item"}},
                    "required": ["item"],
                    "$defs": {"Item": {"type": kind}},
                },
            },
        }
        for name, kind in (("count", "integer"), ("check", "boolean"))
    ]
    for write in FORCED:
        found = forced_calls("required", tools, WRITERS[write])
        assert found is not None
        assert accepts(found, written(write, [("count", {"item": 3})])), write
        assert accepts(found, written(write, [("check", {"item": True})])), write
        assert not accepts(found, written(write, [("count", {"item": True})])), write


def test_what_is_not_demanded_is_not_forced() -> None:
    for choice in (None, "auto", "none"):
        assert forced_calls(choice, TOOLS, "hermes") is None
    assert forced_calls("auto", [], "hermes") is None
    found = forced_calls("required", TOOLS, None)
    assert found is not None
    assert found.tools == "json_list"
    assert accepts(found, '[{"name": "get_weather", "arguments": {"city": "Rome"}}]')


@pytest.mark.parametrize(
    "choice",
    ["any thing", {"type": "function", "function": {"name": "lost"}}, {"type": "other"}, {"type": "function"}],
)
def test_a_choice_that_is_none_is_refused(choice: Any) -> None:
    with pytest.raises(InvalidRequest, match="tool_choice"):
        forced_calls(choice, TOOLS, "hermes")


def test_tools_can_be_allowed_by_name() -> None:
    allowed = {
        "type": "allowed_tools",
        "mode": "required",
        "tools": [{"type": "function", "name": "srv.now/utc-time:v2"}],
    }
    for choice in (allowed, {"type": "allowed_tools", "allowed_tools": allowed}):
        found = forced_calls(choice, TOOLS, "json_list")
        assert found is not None
        assert accepts(found, '[{"name": "srv.now/utc-time:v2", "arguments": {}}]')
        assert not accepts(found, '[{"name": "get_weather", "arguments": {"city": "Rome"}}]')
    with pytest.raises(InvalidRequest, match="tool_choice"):
        forced_calls("required", [], "hermes")
