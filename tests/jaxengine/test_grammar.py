"""Grammars over small vocabularies of every kind: what random choices under their masks write, and what is refused."""

from __future__ import annotations

import json
import os
import re
import time
from typing import Any

import jsonschema
import pytest
import tiny_tokenizers
from grammar_walk import allowed, grammars, walk

from jaxengine.grammar import CACHED, Grammars
from jaxengine.invalid_request import InvalidRequest
from jaxengine.structured_outputs import StructuredOutputsParams

SCHEMA = {
    "type": "object",
    "properties": {
        "the": {"type": "integer", "minimum": -5, "maximum": 120},
        "stop": {"enum": ["fox", "stop the", 'a"b']},
        "of": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
        "x": {"type": "string", "pattern": "^[a-c]+$"},
    },
    "required": ["the", "stop"],
    "additionalProperties": False,
}
CHOICE = ["stop", "stop the", "東京", 'say "no"\n\\', "\x7f"]
TAG = {"structures": [{"begin": "<f=", "schema": SCHEMA, "end": "</f>"}], "triggers": ["<f"]}


def is_json(text: str) -> bool:
    jsonschema.validate(json.loads(text), SCHEMA)
    return True


CASES: list[tuple[StructuredOutputsParams, Any]] = [
    (StructuredOutputsParams(json=SCHEMA), is_json),
    (StructuredOutputsParams(json=SCHEMA, disable_any_whitespace=True), lambda t: is_json(t) and " :" not in t),
    (StructuredOutputsParams(json=SCHEMA, whitespace_pattern="  "), lambda t: is_json(t) and "\n" not in t),
    (StructuredOutputsParams(json_object=True), lambda t: isinstance(json.loads(t), dict)),
    (StructuredOutputsParams(regex=r"[0-9]{3}-(stop|the)+"), re.compile(r"[0-9]{3}-(stop|the)+").fullmatch),
    (StructuredOutputsParams(choice=CHOICE), CHOICE.__contains__),
    (
        StructuredOutputsParams(grammar='start: "the" (" stop" A)*\nA: /[0-9]/'),
        re.compile("the( stop[0-9])*").fullmatch,
    ),
    (StructuredOutputsParams(grammar='root ::= "the" (" " ("a" | [0-9]))*'), re.compile("the( [a0-9])*").fullmatch),
]


@pytest.mark.parametrize(("params", "holds"), CASES)
@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece"])
def test_what_ends_is_what_was_asked_for(params: StructuredOutputsParams, holds: Any, kind: str) -> None:
    tokenizer = tiny_tokenizers.make(kind)
    with grammars(tokenizer, vocab_size=tokenizer.max_token_id + 70) as made:
        walks = [walk(made, params, seed) for seed in range(25)]
    assert {ended for _, ended in walks} <= {"stop", None}
    ended = [text.decode() for text, ended in walks if ended == "stop"]
    assert ended
    assert all(holds(text) for text in ended)


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece"])
def test_tags_are_free_text_until_a_trigger(kind: str) -> None:
    tokenizer = tiny_tokenizers.make(kind)
    with grammars(tokenizer) as made:
        matcher = made.compile(StructuredOutputsParams(structural_tag=TAG)).result(10).matcher()
        assert len(allowed(made, matcher)) > 200
        text = 'the <f={"the": 5, "stop": "fox"}</f> <'
        ids = tokenizer.encode("\n" + text, add_special_tokens=False)
        assert matcher.advance(*ids) is None
        assert set(made.eos_token_ids) <= set(allowed(made, matcher))
        assert matcher.advance(*tokenizer.encode("f", add_special_tokens=False)[-1:]) is None
        assert [tokenizer.token_bytes(token) for token in allowed(made, matcher)] == [b"="]


def test_special_tokens_are_no_text_but_may_be_tags() -> None:
    tokenizer = tiny_tokenizers.make()
    begin, end = (tokenizer.token_id(name) for name in ("<|im_start|>", "<|endoftext|>"))
    tag = {"structures": [{"begin": "<|im_start|>a", "schema": {"const": 1}, "end": "<|endoftext|>"}]}
    with grammars(tokenizer) as made:
        free = made.compile(StructuredOutputsParams(regex="(.|\n)*")).result(10).matcher()
        assert not {begin, end} & set(allowed(made, free))
        tags = StructuredOutputsParams(structural_tag=tag | {"triggers": ["<|im_start|>"]})
        matcher = made.compile(tags).result(10).matcher()
        assert begin in allowed(made, matcher)
        for token in (begin, *tokenizer.encode("a", add_special_tokens=False), *tokenizer.encode("1", False)):
            assert matcher.advance(token) is None
        assert allowed(made, matcher) == [end]


def test_a_sequence_goes_on_where_its_tokens_end() -> None:
    tokenizer = tiny_tokenizers.make()
    with grammars(tokenizer) as made:
        grammar = made.compile(StructuredOutputsParams(choice=["stop it", "stop the"])).result(10)
        first = grammar.matcher()
        ids = tokenizer.encode("stop", add_special_tokens=False)
        assert [first.advance(token) for token in ids] == [None] * len(ids)
        again = grammar.matcher(ids)
        assert again.mask is None
        assert allowed(made, again) == allowed(made, first)
        for token in tokenizer.encode(" the", add_special_tokens=False):
            ended = first.advance(token)
        assert ended == "stop"


def test_what_the_grammar_does_not_allow_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = tiny_tokenizers.make()
    with grammars(tokenizer) as made:
        matcher = made.compile(StructuredOutputsParams(choice=["stop"])).result(10).matcher(request_id="cmpl-1")
        assert matcher.advance(*tokenizer.encode("fox", add_special_tokens=False)) == "error"
    assert "cmpl-1: structured output ended: " in caplog.text


def test_every_end_of_a_text_is_allowed_where_the_text_is_complete_and_nowhere_else() -> None:
    tokenizer = tiny_tokenizers.make()
    eos = (tokenizer.token_id("<|endoftext|>"), tokenizer.token_id("<|im_end|>"))
    with grammars(tokenizer, eos=eos) as made:
        matcher = made.compile(StructuredOutputsParams(regex="a+")).result(10).matcher()
        assert not set(eos) & set(allowed(made, matcher))
        assert matcher.advance(*tokenizer.encode("a", add_special_tokens=False)) is None
        assert set(eos) <= set(allowed(made, matcher))
        assert matcher.advance(eos[0]) == "stop"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"json": {"type": "fox"}}, "Invalid type: fox"),
        ({"json": {"not": {}}}, "Unimplemented keys"),
        ({"json": {"$ref": "http://localhost/a.json"}}, "http://localhost"),
        ({"json": {"x-guidance": 5, "type": "object"}, "disable_any_whitespace": True}, ""),
        ({"json": {"const": "\ud800"}}, "not JSON serializable"),
        ({"json": '{"items":' * 900 + "{}" + "}" * 900}, ""),
        ({"json": {"type": "object", "properties": {f"p{i}": {"enum": ["a", "b"]} for i in range(30000)}}}, "too"),
        ({"json_object": True, "whitespace_pattern": "["}, ""),
        ({"regex": "a["}, "unclosed character class"),
        ({"regex": "a(?=b)"}, "look-around"),
        ({"grammar": " \n"}, ""),
        ({"grammar": "start: fox"}, "fox"),
        ({"grammar": "root ::= fox"}, "fox"),
        ({"grammar": 'root ::= "a'}, ""),
        ({"structural_tag": {}}, "structures"),
        ({"structural_tag": TAG | {"triggers": ["<g"]}}, "no trigger begins '<f='"),
        ({"structural_tag": TAG | {"structures": [5]}}, ""),
    ],
)
def test_what_cannot_be_compiled_is_refused_with_the_reason(given: dict[str, Any], words: str) -> None:
    params = StructuredOutputsParams(**given)
    with grammars(tiny_tokenizers.make()) as made:
        error = made.compile(params).exception(20.0)
    assert isinstance(error, InvalidRequest)
    assert error.field == f"structured_outputs.{params.constraint}"
    assert words in error.problem
    assert "\n" not in str(error)
    assert len(str(error)) < 400


def test_where_no_grammar_can_be_followed_it_is_refused() -> None:
    params = StructuredOutputsParams(regex="a")
    for tokenizer in (None, tiny_tokenizers.make("word_piece")):
        with pytest.raises(InvalidRequest, match="structured_outputs"):
            Grammars(tokenizer, 300, [3]).check(params)
    endless = tiny_tokenizers.Tokenizer(tiny_tokenizers.byte_level(), {})
    with pytest.raises(InvalidRequest, match="ends a text"):
        Grammars(endless, 300, []).check(params)
    Grammars(endless, 300, [3]).check(params)


def test_what_was_compiled_lately_is_not_compiled_again() -> None:
    with grammars(tiny_tokenizers.make()) as made:
        first = [made.compile(StructuredOutputsParams(choice=[str(i)])) for i in range(CACHED)]
        again = made.compile(StructuredOutputsParams(choice=["0"]))
        assert again is first[0]
        made.compile(StructuredOutputsParams(choice=["one more"]))
        assert made.compile(StructuredOutputsParams(choice=["0"])) is first[0]
        assert made.compile(StructuredOutputsParams(choice=["1"])) is not first[1]


def test_copies_of_a_grammar_give_the_same_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    tokenizer = tiny_tokenizers.make()
    with grammars(tokenizer) as made:
        grammar = made.compile(StructuredOutputsParams(json=SCHEMA)).result(10)
        while len(grammar.templates) < 4:
            time.sleep(0.001)
        matchers = [grammar.matcher() for _ in range(6)]
        assert len({id(matcher.template) for matcher in matchers}) == 4
        for token in tokenizer.encode('{"the": 1', add_special_tokens=False):
            assert len({tuple(allowed(made, matcher)) for matcher in matchers}) == 1
            assert {matcher.advance(token) for matcher in matchers} == {None}


def test_a_mask_that_takes_long_keeps_nobody_waiting() -> None:
    tokenizer = tiny_tokenizers.make()
    with grammars(tokenizer) as made:
        heavy = made.compile(StructuredOutputsParams(regex="(stop|the){1,1000}x")).result(10).matcher()
        heavy.advance(*tokenizer.encode("stop", add_special_tokens=False))
        made.write_masks(patience=0.0)
        made.write_masks(patience=0.0)
        while heavy.mask is None:
            made.rest()
        assert allowed(made, heavy)
