"""JSON comes out as JSON, and so does what models write in its stead; types come from schemas."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.tools.definitions import Tool, typed
from serving.tools.json_text import read_json

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()
)
values = st.recursive(
    scalars, lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)), max_leaves=12
)


@settings(deadline=None)
@given(value=values, indent=st.sampled_from([None, 2]), ascii=st.booleans())
def test_json_is_left_as_it_is(value: Any, indent: int | None, ascii: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii)
    assert read_json(text) == text


printable = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]))
literals = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), printable),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(printable, inner)),
    max_leaves=12,
)


@settings(deadline=None)
@given(value=literals)
def test_python_becomes_json(value: Any) -> None:
    text = read_json(repr(value))
    assert text is not None
    assert json.loads(text) == value


@settings(deadline=None)
@given(text=st.text(st.sampled_from("[]{}()\"'\\,: \n01-+.eEtrufalsnTNx\u2028\x00é"), max_size=30))
def test_whatever_comes_out_is_json(text: str) -> None:
    value = read_json(text)
    if value is not None:
        json.loads(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[1, 2,]", "[1, 2]"),
        ("{'a': (1, None,),}", '{"a": [1, null]}'),
        ('"a\nb"', '"a\\nb"'),
        (r'"\d \x41 \u00e9 \u12 \"', None),
        (r'"\d \x41 \u00e9 \u12"', r'"\\d \u0041 \u00e9 \\u12"'),
        ("{1: 2}", None),
        ("{a: 2}", None),
        ("[1 2]", None),
        ("[,]", None),
        ("01", None),
        ("NaN", None),
        ("1 2", None),
        ("", None),
    ],
)
def test_repairs(text: str, value: str | None) -> None:
    assert read_json(text) == value


@pytest.mark.parametrize(
    ("types", "text", "value"),
    [
        ({"string"}, "3", '"3"'),
        ({"integer"}, "3", "3"),
        ({"integer"}, "3.0", "3"),
        ({"integer"}, "3.5", '"3.5"'),
        ({"number"}, "3", "3"),
        ({"boolean"}, "True", "true"),
        ({"object"}, "{'a': 1}", '{"a": 1}'),
        ({"string", "null"}, "null", "null"),
        ({"string", "null"}, '"x"', '"\\"x\\""'),
        (set(), "[1]", "[1]"),
        (set(), "one", '"one"'),
    ],
)
def test_types(types: set[str], text: str, value: str) -> None:
    assert typed(frozenset(types), text) == value


def test_a_schema_tells_types() -> None:
    tool = Tool(
        "f",
        {
            "$defs": {"Id": {"type": "integer"}, "Loop": {"$ref": "#/$defs/Loop"}},
            "properties": {
                "id": {"$ref": "#/$defs/Id"},
                "loop": {"$ref": "#/$defs/Loop"},
                "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                "one": {"enum": ["a", 1, None]},
                "any": {},
                "odd": 3,
            },
        },
    )
    found = {name: set(tool.types(name)) for name in (*tool.properties, "other")}
    assert found == {
        "id": {"integer"},
        "loop": set(),
        "maybe": {"string", "null"},
        "one": {"string", "integer", "null"},
        "any": set(),
        "odd": set(),
        "other": set(),
    }
    assert Tool("f", {"properties": [], "required": [[], "a"]}).required == []
