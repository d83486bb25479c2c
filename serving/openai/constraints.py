"""The form that an answer must have: `response_format` and `structured_outputs` → SamplingParams.structured_outputs.

Models that think before they answer may do so: the form is that of the answer proper.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from jaxengine import InvalidRequest
from jaxengine.invalid_request import shown
from jaxengine.structured_outputs import StructuredOutputsParams
from serving.reading import Reading
from serving.tools.lark import Lark


def structured_outputs(
    response_format: Mapping[str, Any] | None, given: Mapping[str, Any] | None, reading: Reading | None = None
) -> StructuredOutputsParams | None:
    """None for any text. `reading`: of a chat. Raises InvalidRequest."""
    fields = dict(given or {})
    if response_format is not None and (form := _form(response_format)) is not None:
        if given is not None:
            raise InvalidRequest("response_format", "structured_outputs is given too", "send one of them")
        fields = form
    elif given is None:
        return None
    params = StructuredOutputsParams.of(fields)
    return params if reading is None else _after_thoughts(params, reading)


def _form(response_format: Mapping[str, Any]) -> dict[str, Any] | None:
    """StructuredOutputsParams' fields; None for any text."""
    match response_format.get("type"):
        case "text":
            return None
        case "json_object":
            return {"json_object": True}
        case "json_schema":
            described = response_format.get("json_schema")
            schema = described.get("schema") if isinstance(described, Mapping) else None
            if schema is None:
                raise InvalidRequest(
                    "response_format", "it has no schema", 'send {"type": "json_schema", "json_schema": {"schema": …}}'
                )
            return {"json": schema}
        case "structural_tag":
            return {"structural_tag": {key: value for key, value in response_format.items() if key != "type"}}
    raise InvalidRequest(
        "response_format",
        f"got type {shown(response_format.get('type'))}",
        "use text, json_object, json_schema or structural_tag",
    )


def _after_thoughts(params: StructuredOutputsParams, reading: Reading) -> StructuredOutputsParams:
    """The same form, behind a block of thoughts. Grammars and tags are left as they are: they may have their own."""
    lark = Lark(reading.formats.special_tokens)
    thoughts = reading.thoughts(lark)
    if not thoughts:
        return params
    if params.json_object:
        answer = lark.json({"type": "object"})
    elif isinstance(params.json, str) and not (params.disable_any_whitespace or params.whitespace_pattern):
        answer = lark.json(json.loads(params.json))
    elif params.choice is not None:
        answer = lark.either(map(lark.text, params.choice))
    else:
        return params
    return StructuredOutputsParams(grammar=lark.grammar(f"{thoughts} {answer}"))
