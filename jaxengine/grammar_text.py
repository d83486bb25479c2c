"""StructuredOutputsParams → the text that llguidance compiles: JSON schemas, Lark, or its own JSON around them.

`grammar.py` calls it in its compiling threads. ValueErrors carry the reason, in llguidance's words or ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from jaxengine.grammar_tags import quoted, tags_grammar
from jaxengine.structured_outputs import StructuredOutputsParams

# Keywords of JSON schema whose value is a schema or a list of them, and those whose value has schemas by name.
SCHEMAS = (
    *("additionalProperties", "unevaluatedProperties", "propertyNames", "contains", "additionalItems"),
    *("unevaluatedItems", "not", "if", "then", "else", "items", "prefixItems", "allOf", "anyOf", "oneOf"),
)
NAMED_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")


def grammar_text(params: StructuredOutputsParams, special_tokens: Mapping[str, int]) -> str:
    """special_tokens: text → id of those that tags may be made of; no other text can bring them about."""
    import llguidance

    if params.json_object:
        return llguidance.LLMatcher.grammar_from_json_schema(_schema('{"type": "object"}', params))
    if isinstance(params.json, str):
        return llguidance.LLMatcher.grammar_from_json_schema(_schema(params.json, params))
    if params.regex is not None:
        return llguidance.LLMatcher.grammar_from_regex(params.regex)
    if params.choice is not None:
        return "start: CHOICE\nCHOICE: " + " | ".join(map(quoted, params.choice))
    if params.grammar is not None:
        return _lark(params.grammar)
    assert isinstance(params.structural_tag, str)
    tags = json.loads(params.structural_tag)
    return tags_grammar(tags, special_tokens, lambda schema: _schema(schema, params), _lark)


def _lark(text: str) -> str:
    import llguidance

    try:
        return llguidance.grammar_from("grammar", text)
    except (IndexError, RecursionError) as error:  # of its translator, where a text ends early or is nested deeply
        raise ValueError(f"cannot be read as GBNF: {error}") from error


def _schema(text: str, params: StructuredOutputsParams) -> str:
    """The schema, changed as the options say."""
    options: dict[str, Any] = {}
    if params.disable_any_whitespace:
        options["whitespace_flexible"] = False
    if params.whitespace_pattern is not None:
        options["whitespace_pattern"] = params.whitespace_pattern
    if not options and not params.disable_additional_properties:
        return text
    schema = json.loads(text)
    if params.disable_additional_properties:
        schema = _closed(schema)
    if options:
        schema["x-guidance"] = {**schema.get("x-guidance", {}), **options}
    return json.dumps(schema, ensure_ascii=False)


def _closed(schema: Any) -> Any:
    """The schema with `additionalProperties: false` wherever it lists properties and says nothing about others."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = dict(schema)
    for keyword in SCHEMAS:
        if keyword in closed:
            closed[keyword] = _closed(closed[keyword])
    for keyword in NAMED_SCHEMAS:
        if isinstance(named := closed.get(keyword), dict):
            closed[keyword] = {name: _closed(part) for name, part in named.items()}
    if any(isinstance(closed.get(keyword), dict) for keyword in ("properties", "patternProperties")):
        closed.setdefault("additionalProperties", False)
    return closed
