"""The tools of a request, and which of them the model may or must call.

`message.py` takes the definitions for the types of their parameters, `forced.py` their schemas.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from jaxengine import InvalidRequest
from serving.tools.json_text import NUMBER, read_json

MOST_REFERENCES = 32  # a schema may refer to itself
KINDS = {"{": "object", "[": "array", '"': "string", "t": "boolean", "f": "boolean", "n": "null"}


@dataclass(frozen=True)
class Tool:
    """A function and the JSON schema of its arguments."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def properties(self) -> dict[str, dict[str, Any]]:
        """Each parameter's own schema, which can be used by itself: it has the definitions that it refers to."""
        named = self.parameters.get("properties")
        shared = {key: self.parameters[key] for key in ("$defs", "definitions") if key in self.parameters}
        schemas = named.items() if isinstance(named, Mapping) else ()
        return {name: {**schema, **shared} if isinstance(schema, Mapping) else {} for name, schema in schemas}

    @property
    def required(self) -> list[str]:
        """Parameters that every call has."""
        names, known = self.parameters.get("required"), self.properties
        return [name for name in names if isinstance(name, str) and name in known] if isinstance(names, list) else []

    def types(self, parameter: str) -> frozenset[str]:
        """The JSON types that an argument may have; empty when the schema does not say."""
        schema = self.properties.get(parameter, {})
        return frozenset(_types(schema, schema, MOST_REFERENCES))


def read_tools(definitions: Iterable[Mapping[str, Any]]) -> dict[str, Tool]:
    """By name, from chat completions' form or that of responses. Tools that are no functions are left out."""
    tools = {}
    for definition in definitions:
        function = definition.get("function", definition)
        if definition.get("type", "function") == "function" and isinstance(function, Mapping) and "name" in function:
            parameters = function.get("parameters")
            name = str(function["name"])
            tools[name] = Tool(name, parameters if isinstance(parameters, Mapping) else {})
    return tools


@dataclass(frozen=True)
class ToolChoice:
    """Whether calls are possible or certain, and of which tools. `single`: exactly one call, no more."""

    mode: Literal["none", "auto", "required"]
    tools: dict[str, Tool]
    single: bool = False


def read_tool_choice(
    choice: str | Mapping[str, Any] | None, definitions: Sequence[Mapping[str, Any]], *, parallel: bool = True
) -> ToolChoice:
    """A request's `tool_choice`: none, auto, required, a function by name (the forms of chat completions and of
    responses), or allowed_tools. None is auto where there are tools. Raises InvalidRequest.
    """
    tools = read_tools(definitions)
    if isinstance(choice, Mapping) and choice.get("type") == "allowed_tools":
        choice = choice.get("allowed_tools", choice)
        allowed = choice.get("tools") if isinstance(choice, Mapping) else None
        if not isinstance(allowed, list) or not all(isinstance(tool, Mapping) for tool in allowed):
            raise InvalidRequest("tool_choice", "allowed_tools has no list of tools", 'send {"mode": …, "tools": […]}')
        tools = {name: _known(name, tools) for name in read_tools(allowed)}
        choice = choice.get("mode", "auto") if isinstance(choice, Mapping) else None
    if isinstance(choice, Mapping):
        function = choice.get("function", choice)
        name = function.get("name") if isinstance(function, Mapping) else None
        if choice.get("type", "function") != "function" or not isinstance(name, str):
            raise InvalidRequest("tool_choice", f"got {json.dumps(choice)[:60]}", "name a function")
        return ToolChoice("required", {name: _known(name, tools)}, single=True)
    match choice or "auto":
        case "none":
            return ToolChoice("none", tools)
        case "auto":
            return ToolChoice("auto" if tools else "none", tools, single=not parallel)
        case "required" | "any":
            if not tools:
                raise InvalidRequest("tool_choice", "a call is required and there are no tools", "send tools")
            return ToolChoice("required", tools, single=not parallel)
    raise InvalidRequest("tool_choice", f"got {str(choice)[:60]!r}", "use none, auto, required or a function")


def _known(name: str, tools: Mapping[str, Tool]) -> Tool:
    if name not in tools:
        raise InvalidRequest("tool_choice", f"there is no function {name[:60]!r} among the tools", "name one of them")
    return tools[name]


def _types(schema: Any, root: Mapping[str, Any], references: int) -> set[str]:
    if not isinstance(schema, Mapping) or not references:
        return set()
    if isinstance(reference := schema.get("$ref"), str):
        target: Any = root
        for step in reference.removeprefix("#").split("/")[1:]:
            target = target.get(step) if isinstance(target, Mapping) else None
        return _types(target, root, references - 1)
    named = schema.get("type")
    if isinstance(named, str | list):
        return {named} if isinstance(named, str) else {name for name in named if isinstance(name, str)}
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if isinstance(values, list):
        return {kind(json.dumps(value)) for value in values}
    found: set[str] = set()
    for choices in (schema.get(key) for key in ("anyOf", "oneOf", "allOf")):
        for choice in choices if isinstance(choices, list) else ():
            types = _types(choice, root, references - 1)
            if not types:
                return set()
            found |= types
    return found


def kind(value: str) -> str:
    """The JSON type of a value's text."""
    return KINDS.get(value[0]) or ("number" if any(mark in value for mark in ".eE") else "integer")


def typed(types: frozenset[str], text: str) -> str:
    """The JSON text of a value that a model wrote without saying its type: what the types allow, else a string."""
    if types != {"string"} and (value := read_json(text)) is not None:
        found = kind(value)
        if not types or found in types - {"string"} or (found == "integer" and "number" in types):
            return value
        if found == "number" and "integer" in types and NUMBER.fullmatch(value) and float(value).is_integer():
            return str(int(float(value)))
    return quoted(text)


def quoted(text: str) -> str:
    """A JSON string."""
    return json.dumps(text, ensure_ascii=False)
