"""Writes grammars in llguidance's Lark dialect: what a model must say, for `forced.py` and the formats.

Rules are written in the order in which they are made; every method gives back an expression to use in another rule.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any


class Lark:
    """One grammar. `special_tokens` are the tokenizer's, by their text: these are written as ids, all else as text."""

    def __init__(self, special_tokens: Mapping[str, int] | None = None) -> None:
        self._special = dict(special_tokens or {})
        self._rules: list[str] = []

    def text(self, text: str) -> str:
        """Exactly this text."""
        special = sorted((token for token in self._special if token and token in text), key=len, reverse=True)
        parts = re.split("(" + "|".join(map(re.escape, special)) + ")", text) if special else [text]
        return " ".join(
            f"<[{self._special[part]}]>" if part in self._special else _quoted(part) for part in parts if part
        )

    def has(self, token: str) -> bool:
        """Whether the tokenizer has this special token."""
        return token in self._special

    def free_text(self, end: str) -> str:
        """Any text, and the first `end` after it."""
        for token in self._special:
            if token and token in end:  # text never contains the token, so it alone tells where the text ends
                return self.rule(rf"/(.|\n)*/ {self.text(end[end.index(token) :])}")
        return self.rule(r"/(.|\n)*/", options=f"[suffix={_quoted(end)}]")

    def json(self, schema: Mapping[str, Any]) -> str:
        """JSON text of a value that the schema allows."""
        return self.rule(f"%json {json.dumps(schema, ensure_ascii=False)}")

    def either(self, choices: Iterable[str]) -> str:
        """One of the expressions."""
        return self.rule(" | ".join(choices))

    def several(self, item: str, between: str = "") -> str:
        """One or more, with another expression between each two."""
        return self.rule(f"{item} ({between} {item})*")

    def rule(self, body: str, options: str = "") -> str:
        """A rule of its own."""
        name = f"r{len(self._rules)}"
        self._rules.append(f"{name}{options}: {body}")
        return name

    def grammar(self, start: str) -> str:
        """The whole grammar."""
        return "\n".join(["%llguidance {}", f"start: {start}", *self._rules]) + "\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
