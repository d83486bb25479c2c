"""JSON schemas of what requests carry as plain objects: messages, tools, formats. They document; others check."""

from __future__ import annotations

from typing import Any


def _one_of_types(*kinds: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": list(kinds)}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties}


TEXT = {"type": "string"}
NAME = {"type": "string", "minLength": 1}
PART = _one_of_types(
    _object(["type", "text"], type={"enum": ["text", "input_text", "output_text"]}, text=TEXT),
    _object(["type", "refusal"], type={"const": "refusal"}, refusal=TEXT),
    _object(["type", "thinking"], type={"const": "thinking"}, thinking=TEXT),
)
CALL = _object(["function"], id=TEXT, type={"const": "function"}, function=_object(["name"], name=NAME, arguments=TEXT))
CONTENT = {"content": _one_of_types(TEXT, {"type": "array", "items": PART})}
ROLES = {"enum": ["system", "developer", "user", "tool"]}
MESSAGE = _one_of_types(
    _object(["role", "content"], role=ROLES, name=TEXT, tool_call_id=TEXT, **CONTENT),
    _object(
        ["role"],
        role={"const": "assistant"},
        reasoning=TEXT,
        tool_calls={"type": "array", "items": CALL},
        content=_one_of_types(*CONTENT["content"]["anyOf"], {"type": "null"}),
    ),
)
TOOL = _object(
    ["function"],
    type={"const": "function"},
    function=_object(["name"], name=NAME, description=TEXT, parameters={"type": "object"}, strict={"type": "boolean"}),
)
TOOL_CHOICE = _one_of_types(
    {"enum": ["none", "auto", "required"]},
    _object(["function"], type={"const": "function"}, function=_object(["name"], name=NAME)),
    {"type": "null"},
)
CONTENT_PARTS = _one_of_types(
    _object(["type", "text"], type={"enum": ["input_text", "output_text"]}, text=TEXT),
    _object(["type", "refusal"], type={"const": "refusal"}, refusal=TEXT),
)
INPUT_TEXTS = _object(["type", "text"], type={"const": "input_text"}, text=TEXT)
THOUGHTS = {"type": "array", "items": _object(["type", "text"], type={"const": "reasoning_text"}, text=TEXT)}
INPUT_ITEM = _one_of_types(
    _object(
        ["role", "content"],
        type={"const": "message"},
        role={"enum": ["user", "assistant", "system", "developer"]},
        content=_one_of_types(TEXT, {"type": "array", "items": CONTENT_PARTS}),
    ),
    _object(["type", "call_id", "name", "arguments"], type={"const": "function_call"}, call_id=TEXT, name=NAME,
            arguments=TEXT),
    _object(["type", "call_id", "output"], type={"const": "function_call_output"}, call_id=TEXT,
            output=_one_of_types(TEXT, {"type": "array", "items": INPUT_TEXTS})),
    _object(["type"], type={"const": "reasoning"}, id=TEXT, content=THOUGHTS),
    _object(["id"], type={"const": "item_reference"}, id=TEXT),
)  # fmt: skip
FUNCTION_CHOICE = _one_of_types(
    {"enum": ["none", "auto", "required"]},
    _object(["type", "name"], type={"const": "function"}, name=NAME),
    _object(["type", "mode", "tools"], type={"const": "allowed_tools"}, mode={"enum": ["auto", "required"]},
            tools={"type": "array", "items": _object(["type", "name"], type={"const": "function"}, name=NAME)}),
    {"type": "null"},
)  # fmt: skip
RESPONSE_FORMAT = _one_of_types(
    _object(["type"], type={"enum": ["text", "json_object"]}),
    _object(
        ["type", "json_schema"],
        type={"const": "json_schema"},
        json_schema=_object(["schema"], name=TEXT, schema={"type": "object"}, strict={"type": "boolean"}),
    ),
    _object(["type"], type={"const": "structural_tag"}),
    {"type": "null"},
)
STRUCTURED_OUTPUTS = _one_of_types(
    _object(["json"], json=_one_of_types({"type": "object"}, TEXT)),
    _object(["regex"], regex=NAME),
    _object(["choice"], choice={"type": "array", "minItems": 1, "items": TEXT}),
    _object(["grammar"], grammar=NAME),
    _object(["json_object"], json_object={"const": True}),
    _object(["structural_tag"], structural_tag=_one_of_types({"type": "object"}, TEXT)),
    {"type": "null"},
)
TOKEN_BIASES = {"propertyNames": {"pattern": "^[0-9]{1,6}$"}}
TOKEN_IDS = {"items": {"type": "integer", "minimum": 0}}
STOPS = {"minLength": 1, "items": NAME}
