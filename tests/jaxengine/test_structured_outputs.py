"""What StructuredOutputsParams takes, keeps and refuses."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from jaxengine import InvalidRequest, SamplingParams, StructuredOutputsParams
from jaxengine.structured_outputs import MAX_CHARACTERS

SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"const": "é"}}}
TEXT = '{"type": "object", "properties": {"b": {"type": "integer"}, "a": {"const": "é"}}}'


def test_schemas_are_kept_as_text_in_their_order() -> None:
    params = StructuredOutputsParams(json=SCHEMA)
    assert params.json == TEXT
    assert params == StructuredOutputsParams(json=TEXT)
    assert hash(params) == hash(StructuredOutputsParams(json=TEXT))
    assert params != StructuredOutputsParams(json=TEXT, disable_any_whitespace=True)
    tags = {"structures": [{"begin": "<a>", "schema": {}, "end": "</a>"}], "triggers": ["<a"]}
    assert isinstance(StructuredOutputsParams(structural_tag=tags).structural_tag, str)


@pytest.mark.parametrize(
    "given",
    [
        {"json": TEXT},
        {"regex": r"\d+"},
        {"choice": ["a", "b"]},
        {"grammar": "start: /a/"},
        {"json_object": True, "whitespace_pattern": " ?"},
        {"json_object": False, "regex": "a"},
    ],
)
def test_it_travels_in_sampling_params(given: dict[str, Any]) -> None:
    params = SamplingParams(structured_outputs=given)
    made = params.structured_outputs
    assert isinstance(made, StructuredOutputsParams)
    assert made.constraint in given
    assert params.clone(n=2).structured_outputs is made
    sent = msgspec.msgpack.encode(params)
    assert msgspec.msgpack.decode(sent, type=SamplingParams).structured_outputs == made


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, ""),
        ({"json_object": False}, ""),
        ({"regex": "a", "choice": ["a"]}, ""),
        ({"regexp": "a"}, ""),
        ({"json": "{"}, "json"),
        ({"json": "[]"}, "json"),
        ({"json": 5}, "json"),
        ({"json": {"a": {1, 2}}}, "json"),
        ({"json": {"a": float("nan")}}, "json"),
        ({"json": "[" * 100_000}, "json"),
        ({"json": {"const": "x" * MAX_CHARACTERS}}, "json"),
        ({"regex": ""}, "regex"),
        ({"regex": 5}, "regex"),
        ({"regex": "a" * (MAX_CHARACTERS + 1)}, "regex"),
        ({"grammar": ""}, "grammar"),
        ({"choice": []}, "choice"),
        ({"choice": "ab"}, "choice"),
        ({"choice": ["a", 1]}, "choice"),
        ({"json_object": 1}, "json_object"),
        ({"structural_tag": "<a>"}, "structural_tag"),
        ({"regex": "a", "disable_any_whitespace": True}, "disable_any_whitespace"),
        ({"choice": ["a"], "whitespace_pattern": " "}, "whitespace_pattern"),
        ({"json": {}, "whitespace_pattern": ""}, "whitespace_pattern"),
        ({"json": {}, "whitespace_pattern": " ", "disable_any_whitespace": True}, "whitespace_pattern"),
        ({"json": {}, "disable_additional_properties": "yes"}, "disable_additional_properties"),
    ],
)
def test_refused(given: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        SamplingParams(structured_outputs=given)  # type: ignore[arg-type]
    assert refusal.value.field == f"structured_outputs.{field}".removesuffix(".")
    assert len(str(refusal.value)) < 250
    assert "\n" not in str(refusal.value)
