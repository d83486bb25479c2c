"""Structural tags: the texts that each format takes and does not take, and what is refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import tiny_tokenizers
from grammar_walk import allowed, grammars

from jaxengine.grammar import Grammars
from jaxengine.invalid_request import InvalidRequest
from jaxengine.structured_outputs import StructuredOutputsParams

NUMBER = {"type": "json_schema", "json_schema": {"type": "integer", "minimum": 0, "maximum": 99}}
TEXT = {"type": "any_text"}


def const(value: str) -> dict[str, Any]:
    return {"type": "const_string", "value": value}


def tag(begin: str, content: dict[str, Any], end: Any) -> dict[str, Any]:
    return {"type": "tag", "begin": begin, "content": content, "end": end}


F, G = tag("<f=", NUMBER, "</f>"), tag("<g>", TEXT, ["</g>", "<!>"])
TRIGGERED = {"type": "triggered_tags", "triggers": ["<f", "<g"], "tags": [F, G]}
SEPARATED = {"type": "tags_with_separator", "tags": [F, G], "separator": ", "}

CASES: list[tuple[dict[str, Any], list[str], list[str]]] = [
    (const('a\x7f"é'), ['a\x7f"é'], ["a", 'a\x7f"éa', ""]),
    (TEXT, ["", "any\n<f", "é東"], ["<|im_start|>"]),
    (NUMBER, ["7", "99"], ["100", "a"]),
    ({"type": "regex", "pattern": "a/[b-c]+"}, ["a/bc"], ["a/", "ab"]),
    ({"type": "grammar", "grammar": 'root ::= "x" [0-9]*'}, ["x", "x12"], ["12"]),
    ({"type": "sequence", "elements": [const("a"), NUMBER, const("b")]}, ["a5b"], ["a5", "ab"]),
    ({"type": "sequence", "elements": [TEXT, const("b"), NUMBER]}, ["aa b5", "b5"], ["aa b", "aa 5", "bb5"]),
    ({"type": "sequence", "elements": [TEXT, const("stop")]}, ["a stop", "stop"], ["a", "a stop a"]),
    ({"type": "sequence", "elements": [TEXT, F, TRIGGERED]}, ["a<f=1</f>a", "<f=1</f><f=2</f>"], ["a", "<f=1</f><f=a"]),
    ({"type": "or", "elements": [const("a"), NUMBER, F]}, ["a", "5", "<f=5</f>"], ["b", "a5"]),
    ({"type": "optional", "content": const("a")}, ["", "a"], ["aa"]),
    ({"type": "plus", "content": const("a")}, ["a", "aaa"], ["", "b"]),
    ({"type": "star", "content": F}, ["", "<f=1</f><f=2</f>"], ["a"]),
    ({"type": "repeat", "content": const("a"), "min": 2, "max": 3}, ["aa", "aaa"], ["a", "aaaa"]),
    ({"type": "repeat", "content": const("a"), "min": 1, "max": -1}, ["a", "aaaa"], [""]),
    (F, ["<f=12</f>"], ["<f=a</f>", "a<f=1</f>", "<f=12"]),
    (G, ["<g></g>", "<g>a </g <f=x</g>", "<g>a<!>"], ["<g>a", "<g>a</g>b"]),
    (tag("<o>", F, ""), ["<o><f=1</f>"], ["<o>"]),
    (tag("<o>", TRIGGERED, "</o>"), ["<o>a <f=1</f> b</o>", "<o></o>"], ["<o>a <f=1 </o>", "<o>a</o>b"]),
    (TRIGGERED, ["", "a", "a <f=1</f> b <g>c</g> <", "<f=1</f><f=2</f>"], ["a <fa", "a <f=a", "<g>a"]),
    (TRIGGERED | {"at_least_one": True}, ["<f=1</f>", "<f=1</f> a <f=2</f>"], ["", "a", "a <f=1</f>"]),
    (TRIGGERED | {"stop_after_first": True}, ["a", "a <f=1</f>"], ["a <f=1</f> "]),
    (TRIGGERED | {"at_least_one": True, "stop_after_first": True}, ["<f=1</f>"], ["a", "<f=1</f> "]),
    (SEPARATED, ["", "<f=1</f>", "<f=1</f>, <g>a</g>"], ["a", "<f=1</f>, ", "<f=1</f><f=1</f>"]),
    (SEPARATED | {"at_least_one": True}, ["<f=1</f>, <f=1</f>"], [""]),
    (SEPARATED | {"stop_after_first": True}, ["", "<f=1</f>"], ["<f=1</f>, <f=1</f>"]),
    (tag("<|im_start|>a", TEXT, "<|endoftext|>"), ["<|im_start|>a the<|endoftext|>"], ["<|im_start|>a"]),
    (
        {"type": "triggered_tags", "triggers": ["<|im_start|>"], "tags": [tag("<|im_start|>a", NUMBER, "<think>")]},
        ["the <|im_start|>a5<think> stop", "<think>"],
        ["the <|im_start|>5"],
    ),
]


@pytest.fixture(scope="module")
def made() -> Iterator[Grammars]:
    with grammars(tiny_tokenizers.make()) as made:
        yield made


def takes(made: Grammars, params: StructuredOutputsParams, text: str) -> bool:
    matcher = made.compile(params).result(10).matcher()
    ended = None
    assert made.tokenizer is not None
    for token in made.tokenizer.encode(text, add_special_tokens=False):
        if ended is not None or token not in allowed(made, matcher):
            return False
        ended = matcher.advance(token)
    return ended == "stop" or made.eos_token_ids[0] in allowed(made, matcher)


@pytest.mark.parametrize(("form", "good", "bad"), CASES)
def test_formats(made: Grammars, form: dict[str, Any], good: list[str], bad: list[str]) -> None:
    params = StructuredOutputsParams(structural_tag={"type": "structural_tag", "format": form})
    assert [text for text in good if not takes(made, params, text)] == []
    assert [text for text in bad if takes(made, params, text)] == []


def test_structures_and_triggers(made: Grammars) -> None:
    structures = [{"begin": "<f=", "schema": NUMBER["json_schema"], "end": "</f>"}]
    params = StructuredOutputsParams(structural_tag={"structures": structures, "triggers": ["<f"]})
    assert takes(made, params, "a <f=1</f> b")
    assert not takes(made, params, "a <f=a")


def test_the_options_are_for_the_schemas_in_tags(made: Grammars) -> None:
    form = tag("a", {"type": "json_schema", "json_schema": {"type": "object", "properties": {"the": {}}}}, "b")
    loose = StructuredOutputsParams(structural_tag={"format": form})
    strict = StructuredOutputsParams(
        structural_tag={"format": form}, disable_any_whitespace=True, disable_additional_properties=True
    )
    texts = ['a{"the":5}b', 'a{ "the" : 5}b', 'a{"x":5}b']
    assert [takes(made, loose, text) for text in texts] == [True, True, True]
    assert [takes(made, strict, text) for text in texts] == [True, False, False]


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (None, "format None is not supported"),
        ({"type": "token", "token": 5}, "format 'token' is not supported"),
        (TEXT | {"max_tokens": 5}, '"max_tokens" of any_text is not supported'),
        (TRIGGERED | {"excludes": ["a"]}, '"excludes" of triggered_tags is not supported'),
        (NUMBER | {"style": "qwen_xml"}, '"style" of json_schema is not supported'),
        (TRIGGERED | {"triggers": ["<x"]}, "no trigger begins '<f='"),
        (TRIGGERED | {"triggers": [""]}, "triggers"),
        (TRIGGERED | {"tags": []}, "empty"),
        ({"type": "sequence", "elements": [TEXT, NUMBER]}, "must be followed by"),
        ({"type": "const_string"}, '"value" of const_string must be a string'),
        ({"type": "repeat", "content": TEXT, "min": True, "max": 2}, '"min" of repeat must be an integer'),
        (tag("a", TEXT, 5), '"end" of a tag'),
        (tag("a", {"type": "json_schema", "json_schema": {"type": "fox"}}, "b"), "fox"),
    ],
)
def test_refused(made: Grammars, form: Any, words: str) -> None:
    error = made.compile(StructuredOutputsParams(structural_tag={"format": form})).exception(10)
    assert isinstance(error, InvalidRequest)
    assert words in error.problem
