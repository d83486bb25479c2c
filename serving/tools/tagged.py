"""Arguments written one by one between tags, as glm45 and qwen3_xml have them.

Such formats do not say an argument's type; the tool's schema does. Strings stream as they come, other values when they
are complete.
"""

from __future__ import annotations

from dataclasses import dataclass

from serving.tools.calls import Calls
from serving.tools.definitions import Tool, quoted, typed
from serving.tools.lark import Lark
from serving.tools.source import SPACES, Malformed, Pieces, Source, Steps, collected, told


@dataclass(frozen=True)
class Tags:
    """How a format writes one argument: `key_open` name `key_close` `value_open` value `value_close`."""

    key_open: str
    key_close: str
    value_open: str
    value_close: str
    padding: str  # around the value
    after: tuple[str, ...]  # what can stand behind the last argument

    @property
    def value_ends(self) -> tuple[str, ...]:
        """With padding, as it should be, or without."""
        return (self.padding + self.value_close, self.value_close) if self.padding else (self.value_close,)


def read_arguments(source: Source, calls: Calls, tool: Tool, tags: Tags) -> Steps[None]:
    """All arguments, as one JSON object that is left open: whoever reads the call's end closes it."""
    separator = "{"
    while (yield from source.ahead(tags.key_open)):
        source.keep()  # an argument that is broken off before anything of it is told will be content
        yield from source.expect(tags.key_open)
        key = (yield from collected(source.upto(tags.key_close))).strip()
        if tags.value_open:
            yield from source.run(SPACES)
            yield from source.expect(tags.value_open)
        if tags.padding:
            yield from source.accept(tags.padding)
        said, types, text = f"{separator}{quoted(key)}: ", tool.types(key), _value_text(source, tags)
        if types == {"string"}:
            source.release()
            yield calls.arguments(said + '"')
            yield from told(text, lambda piece: calls.arguments(quoted(piece)[1:-1]))
            yield calls.arguments('"')
        else:
            value = yield from collected(text)
            source.release()
            yield calls.arguments(said + typed(types, value))
        yield from source.run(SPACES)
        separator = ", "
    if separator == "{":
        yield calls.arguments("{")


def _value_text(source: Source, tags: Tags) -> Pieces[None]:
    """Up to the closing tag. One with anything else behind it than what a call goes on with is text of the value."""
    while True:
        end = yield from source.until(*tags.value_ends)
        if not end:
            raise Malformed
        source.keep()
        yield from source.run(SPACES)
        goes_on = (yield from source.ahead(tags.key_open, *tags.after)) or not (yield from source.peek())
        source.back()
        if goes_on:
            return
        yield end


def arguments_grammar(lark: Lark, tool: Tool, tags: Tags, between: str) -> str:
    """Every argument at most once, in the schema's order. `between`: the expression for what stands between tags."""
    parts = []
    for name, schema in tool.properties.items():
        opening = lark.text(tags.key_open + name + tags.key_close + tags.padding)
        if tags.value_open:
            opening += f" {between} {lark.text(tags.value_open)}"
        closing = tags.padding + tags.value_close
        if tool.types(name) == {"string"}:
            choices = schema.get("enum")
            if isinstance(choices, list) and choices:
                value = lark.either(lark.text(str(choice) + closing) for choice in choices)
            else:
                value = lark.free_text(closing)
        else:
            value = f"{lark.json(schema)} {lark.text(closing)}"
        part = lark.rule(f"{opening} {value} {between}")
        parts.append(part if name in tool.required else part + "?")
    return " ".join(parts)
