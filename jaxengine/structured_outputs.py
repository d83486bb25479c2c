"""What a request's output must look like: StructuredOutputsParams, with vLLM's names.

A field of SamplingParams. What needs no compiler is checked here when the object is made; `grammar.py` compiles it.
Equal objects mean the same grammar and hash alike: they are the keys of its cache.
"""

from __future__ import annotations

import json as json_text
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from jaxengine.invalid_request import InvalidRequest, shown

CONSTRAINTS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
OF_SCHEMAS = ("json", "json_object", "structural_tag")  # what the other fields say something about
MAX_CHARACTERS = 1 << 20  # of one constraint


@dataclass(frozen=True, slots=True, kw_only=True)
class StructuredOutputsParams:
    """Exactly one of the first six says what the whole output is. Raises InvalidRequest.

    Schemas and tags may be given as dictionaries; they are kept as text.
    """

    json: str | Mapping[str, Any] | None = None  # JSON that is valid under this JSON schema
    regex: str | None = None  # text that this regular expression matches from its beginning to its end
    choice: Sequence[str] | None = None  # one of these strings
    grammar: str | None = None  # text of this grammar: Lark, or EBNF as GBNF has it
    json_object: bool | None = None  # any JSON object
    structural_tag: str | Mapping[str, Any] | None = None  # free text with JSON between tags
    disable_any_whitespace: bool = False  # JSON without spaces and newlines between its parts
    disable_additional_properties: bool = False  # objects have the properties that the schema lists, no others
    whitespace_pattern: str | None = None  # a regular expression: the whitespace between the parts of JSON

    def __post_init__(self) -> None:
        if self.json_object is False:
            object.__setattr__(self, "json_object", None)
        given = [name for name in CONSTRAINTS if getattr(self, name) is not None]
        if len(given) != 1:
            problem = f"{' and '.join(given)} are given together" if given else "no constraint is given"
            raise InvalidRequest("structured_outputs", problem, f"use exactly one of {', '.join(CONSTRAINTS)}")
        self._check_options(given[0])
        kept = getattr(self, f"_checked_{given[0]}")(f"structured_outputs.{given[0]}")
        object.__setattr__(self, given[0], kept)

    @classmethod
    def of(cls, value: object) -> StructuredOutputsParams:
        """The object itself, or one made of a mapping that has its fields."""
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise InvalidRequest("structured_outputs", f"got {shown(value)}", "use StructuredOutputsParams")
        unknown = value.keys() - {field.name for field in fields(cls)}
        if unknown:
            names = ", ".join(sorted(map(str, unknown)))
            raise InvalidRequest("structured_outputs", f"unknown: {names}", f"use one of {', '.join(CONSTRAINTS)}")
        return cls(**value)

    @property
    def constraint(self) -> str:
        """The name of the one that is given."""
        return next(name for name in CONSTRAINTS if getattr(self, name) is not None)

    def _check_options(self, constraint: str) -> None:
        for name in ("disable_any_whitespace", "disable_additional_properties"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidRequest(f"structured_outputs.{name}", "it is not a bool", "use True or False")
        for name in ("disable_any_whitespace", "disable_additional_properties", "whitespace_pattern"):
            if getattr(self, name) and constraint not in OF_SCHEMAS:
                problem = f"it means nothing for {constraint}"
                raise InvalidRequest(f"structured_outputs.{name}", problem, "leave it out")
        if self.whitespace_pattern is not None:
            _text("structured_outputs.whitespace_pattern", self.whitespace_pattern)
            if self.disable_any_whitespace:
                raise InvalidRequest(
                    "structured_outputs.whitespace_pattern",
                    "disable_any_whitespace is given with it",
                    "use one of the two",
                )

    def _checked_json(self, field: str) -> str:
        return _json_object(field, self.json, "a JSON schema, as text or as a dictionary")

    def _checked_structural_tag(self, field: str) -> str:
        return _json_object(
            field, self.structural_tag, 'an object with a "format", or with "structures" and "triggers"'
        )

    def _checked_regex(self, field: str) -> str:
        return _text(field, self.regex)

    def _checked_grammar(self, field: str) -> str:
        return _text(field, self.grammar)

    def _checked_json_object(self, field: str) -> bool:
        if self.json_object is not True:
            raise InvalidRequest(field, f"got {shown(self.json_object)}", "use True, or leave it out")
        return True

    def _checked_choice(self, field: str) -> tuple[str, ...]:
        if isinstance(self.choice, str) or not isinstance(self.choice, Sequence) or not self.choice:
            raise InvalidRequest(field, f"got {shown(self.choice)}", "use a list of at least one string")
        for text in self.choice:
            if not isinstance(text, str):
                raise InvalidRequest(field, f"{shown(text)} is not a string", "use strings only")
        _check_size(field, sum(map(len, self.choice)))
        return tuple(dict.fromkeys(self.choice))


def _text(field: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidRequest(field, f"got {shown(value)}", "use a string that is not empty")
    _check_size(field, len(value))
    return value


def _json_object(field: str, value: object, wanted: str) -> str:
    """Text of a JSON object, its keys in the order in which they were given."""
    try:
        if isinstance(value, str):
            text, parsed = value, json_text.loads(value)
        else:
            text, parsed = json_text.dumps(value, ensure_ascii=False, allow_nan=False), value
    except RecursionError:
        raise InvalidRequest(field, "it is nested too deeply", f"use {wanted}") from None
    except (TypeError, ValueError) as error:
        raise InvalidRequest(field, f"it is not JSON: {error}", f"use {wanted}") from None
    if not isinstance(parsed, Mapping):
        raise InvalidRequest(field, f"got {shown(value)}", f"use {wanted}")
    _check_size(field, len(text))
    return text


def _check_size(field: str, size: int) -> None:
    if size > MAX_CHARACTERS:
        raise InvalidRequest(field, f"{size:,} characters are too many", f"use at most {MAX_CHARACTERS:,}")
