"""Structural tags → Lark: text that is free here and must be of some form there.

`grammar_text.py` calls `tags_grammar`. Both forms that vLLM knows: a tree of formats under "format", and "structures"
with "triggers", which is the tree of one `triggered_tags`. ValueErrors say what is not understood, by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

FREE_TEXT = r"/(.|\n)*/"
NO_END = ("",)
FREE = ("any_text", "triggered_tags")  # formats that end where something else begins
Format = Mapping[str, Any]


def tags_grammar(
    tags: Format,
    special_tokens: Mapping[str, int],  # text → id; no other text can bring them about
    schema: Callable[[str], str],  # a JSON schema, changed as the request's options say
    lark: Callable[[str], str],  # Lark for a grammar of the user's
) -> str:
    """The text that llguidance compiles."""
    if "format" not in tags:
        tags = {"format": _triggered_tags(tags)}
    tree = _Tree(special_tokens, schema, lark)
    start = tree.expression(tags["format"], NO_END)
    rules = ["%llguidance {}", f"start: {start}", f"TEXT: {FREE_TEXT}", *tree.rules]
    whole = "\n".join(rules)
    if not tree.grammars:
        return whole
    return json.dumps({"grammars": [{"name": "tags", "lark_grammar": whole}, *tree.grammars]})


def quoted(text: str) -> str:
    """A string of Lark."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _triggered_tags(tags: Format) -> Format:
    """{"structures": [{"begin", "schema", "end"}], "triggers": [text]} as a format."""
    structures = _get(tags, "structures", list, "structural tag")
    found = []
    for each in structures:
        _get({"structure": each}, "structure", Mapping, "structural tag")
        content = {"type": "json_schema", "json_schema": each.get("schema")}
        found.append({"type": "tag", "begin": each.get("begin"), "content": content, "end": each.get("end")})
    return {"type": "triggered_tags", "triggers": tags.get("triggers"), "tags": found}


class _Tree:
    """Collects the rules of a tree of formats. `ends` are strings, one of which follows what an expression stands for:
    free text must know them, since it ends where the first of them appears.
    """

    def __init__(
        self, special_tokens: Mapping[str, int], schema: Callable[[str], str], lark: Callable[[str], str]
    ) -> None:
        self.special_tokens, self.schema, self.lark = special_tokens, schema, lark
        self.rules: list[str] = []
        self.grammars: list[dict[str, str]] = []
        names = sorted(special_tokens, key=len, reverse=True)
        self._special = re.compile(f"({'|'.join(map(re.escape, names))})") if names else None

    def expression(self, node: Any, ends: Sequence[str]) -> str:
        kind = _kind(node)
        match kind:
            case "any_text":
                _only(node, "type")
                return self.free_text(ends)
            case "triggered_tags":
                return self.triggered_tags(node, ends)
            case "sequence":
                return self.sequence(_get(node, "elements", list, kind), ends)
            case "or":
                elements = _get(node, "elements", list, kind)
                return _any([self.expression(element, ends) for element in elements])
        return f"{self.bounded(node, kind)} {self.any_literal(ends)}".strip()

    def bounded(self, node: Any, kind: str | None) -> str:
        """What ends by itself."""
        match kind:
            case "const_string":
                return self.literal(_get(node, "value", str, kind)) or '""'
            case "json_schema":
                _only(node, "type", "json_schema", style="json", any_order=False)
                schema = node.get("json_schema")
                return "%json " + self.schema(schema if isinstance(schema, str) else json.dumps(schema))
            case "regex":
                import llguidance

                _only(node, "type", "pattern")
                return f"/{llguidance.regex_to_lark(_get(node, 'pattern', str, kind), '')}/"
            case "grammar":
                name = f"grammar_{len(self.grammars)}"
                self.grammars.append({"name": name, "lark_grammar": self.lark(_get(node, "grammar", str, kind))})
                return f"@{name}"
            case "optional" | "plus" | "star":
                return f"({self.expression(node.get('content'), NO_END)})" + {"optional": "?", "plus": "+"}.get(
                    kind, "*"
                )
            case "repeat":
                least, most = _get(node, "min", int, kind), _get(node, "max", int, kind)
                return f"({self.expression(node.get('content'), NO_END)}){{{least},{'' if most == -1 else most}}}"
            case "tag":
                return self.tag(node)
            case "tags_with_separator":
                return self.separated(node)
        known = "any_text, const_string, grammar, json_schema, optional, or, plus, regex, repeat, sequence, star, tag"
        raise ValueError(f"format {kind!r} is not supported: use {known}, tags_with_separator or triggered_tags")

    def sequence(self, elements: Sequence[Any], ends: Sequence[str]) -> str:
        parts, rest = [], list(elements)
        while rest:
            element = rest.pop(0)
            if not rest:
                parts.append(self.expression(element, ends))
            elif _kind(element) not in FREE:
                parts.append(self.expression(element, NO_END))
            else:  # ends where what follows begins
                following = rest.pop(0)
                if _kind(following) == "const_string":
                    begin, left = _get(following, "value", str, "const_string"), ""
                elif _kind(following) == "tag":
                    begin, left = _get(following, "begin", str, "tag"), self.tag(following, "")
                else:
                    raise ValueError(f"{_kind(element)} in a sequence must be followed by a const_string or a tag")
                parts += [self.expression(element, [begin]), left, "" if rest else self.any_literal(ends)]
        return " ".join(filter(None, parts)) or '""'

    def tag(self, node: Any, begin: str | None = None) -> str:
        """begin: what is left of the tag's beginning."""
        if begin is None:
            begin = _get(node, "begin", str, "tag")
        ends = node.get("end")
        ends = [ends] if isinstance(ends, str) else ends
        if not isinstance(ends, list) or not ends or not all(isinstance(end, str) for end in ends):
            raise ValueError('"end" of a tag must be a string or a list of strings')
        return f"{self.literal(begin)} {self.expression(node.get('content'), ends)}".strip()

    def separated(self, node: Format) -> str:
        _only(node, "type", "tags", "separator", "at_least_one", "stop_after_first")
        tag = self.rule(_any([self.tag(each) for each in _get(node, "tags", list, "tags_with_separator")]))
        separator = self.literal(_get(node, "separator", str, "tags_with_separator"))
        many = tag if node.get("stop_after_first") else f"{tag} ({separator} {tag})*"
        return f"({many})" if node.get("at_least_one") else f"({many})?"

    def triggered_tags(self, node: Format, ends: Sequence[str]) -> str:
        """Text is free until a trigger appears in it; then comes the rest of a tag that begins with the trigger."""
        _only(node, "type", "triggers", "tags", "at_least_one", "stop_after_first", excludes=[])
        triggers = _get(node, "triggers", list, "triggered_tags")
        if not all(isinstance(trigger, str) and trigger for trigger in triggers):
            raise ValueError('"triggers" must be strings that are not empty')
        tags = _get(node, "tags", list, "triggered_tags")
        later = []
        for tag in tags:
            begin = _get(tag, "begin", str, "tag")
            trigger = next((trigger for trigger in triggers if begin.startswith(trigger)), None)
            if trigger is None:
                raise ValueError(f"no trigger begins {begin!r}")
            later.append(self.rule(f"{self.free_text([trigger])} {self.tag(tag, begin[len(trigger) :])}"))
        first = _any([self.tag(tag) for tag in tags]) if node.get("at_least_one") else ""
        if not node.get("stop_after_first"):
            return f"{first} {_any(later)}* {self.free_text(ends)}".strip()
        once = f"{first or _any(later)} {self.any_literal(ends)}".strip()
        return once if first else _any([once, self.free_text(ends)])

    def free_text(self, ends: Sequence[str]) -> str:
        """Text up to the first of the ends, and that end."""
        choices = []
        for end in ends:
            if not end:
                choices.append("TEXT")
            elif any(end.startswith(token) for token in self.special_tokens):
                choices.append(f"TEXT {self.literal(end)}")
            else:
                choices.append(self.rule(f"TEXT {quoted(end)}", "[lazy]"))
        return _any(choices)

    def rule(self, body: str, options: str = "") -> str:
        name = f"rule_{len(self.rules)}"
        self.rules.append(f"{name}{options}: {body}")
        return name

    def any_literal(self, texts: Sequence[str]) -> str:
        return "" if list(texts) == [""] else _any([self.literal(text) or '""' for text in texts])

    def literal(self, text: str) -> str:
        """Exactly this text, with special tokens as such."""
        parts = [text] if self._special is None else self._special.split(text)
        tokens = self.special_tokens
        return " ".join(f"<[{tokens[part]}]>" if part in tokens else quoted(part) for part in parts if part)


def _kind(node: Any) -> str | None:
    return node.get("type") if isinstance(node, Mapping) else None


def _any(choices: Sequence[str]) -> str:
    if not choices:
        raise ValueError("a list of formats is empty")
    return f"({' | '.join(choices)})"


def _get(node: Any, name: str, kind: type, where: str | None) -> Any:
    value = node.get(name) if isinstance(node, Mapping) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        wanted = {str: "a string", list: "a list", int: "an integer"}.get(kind, "an object")
        raise ValueError(f'"{name}" of {where} must be {wanted}')
    return value


def _only(node: Format, *known: str, **fixed: Any) -> None:
    """Refuse fields that would be ignored. fixed: those that may say what holds anyway."""
    for name, value in node.items():
        if name not in known and (name not in fixed or value != fixed[name]):
            raise ValueError(f'"{name}" of {node.get("type")} is not supported')
