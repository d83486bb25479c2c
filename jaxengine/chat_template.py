"""Chat templates: messages to the prompt's text, in the Jinja dialect that Hugging Face models are published with.

`tokenizer.py` owns one ChatTemplates per model. Templates come from strangers: they run in Jinja's immutable sandbox
and see nothing but plain JSON values.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from jaxengine.request import InvalidRequest

END_MARK = "END-OF-THE-MESSAGE-TO-CONTINUE "
REASONING = ("reasoning_content", "reasoning", "thinking")  # names that clients and templates use for one thing


class ChatTemplates:
    """A model's templates by name; `default` is the one most models have, `tool_use` is taken when tools are given."""

    def __init__(self, named: Mapping[str, str]) -> None:
        self.named = dict(named)

    @property
    def default(self) -> str | None:
        return self.named.get("default")

    def choose(self, chat_template: str | None, has_tools: bool) -> str:
        """A given template (its name or its text), else the model's. Raises InvalidRequest when there is none."""
        if chat_template is not None:
            return self.named.get(chat_template, chat_template)
        if has_tools and "tool_use" in self.named:
            return self.named["tool_use"]
        if self.default is None:
            names = f", only the named ones {sorted(self.named)}" if self.named else ""
            raise InvalidRequest("chat_template", f"the model has no chat template{names}", "give one as chat_template")
        return self.default

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The text of a conversation. Raises InvalidRequest for messages that the template refuses."""
        if continue_final_message and add_generation_prompt:
            raise InvalidRequest(
                "continue_final_message",
                "a prompt cannot both continue the last message and begin a new one",
                "set add_generation_prompt=False",
            )
        template = self.choose(chat_template, bool(tools))
        conversation = [_message(message, template, place) for place, message in enumerate(messages)]
        if not conversation:
            raise InvalidRequest("messages", "the conversation is empty", "send at least one message")
        if continue_final_message:
            _mark_end(conversation[-1])
        for name, values in (("tools", tools), ("documents", documents)):
            if values is not None and not all(isinstance(value, Mapping) for value in values):
                raise InvalidRequest(name, "each one must be a JSON object", "send a list of objects")
        try:
            text = compile_template(template).render(
                messages=conversation,
                tools=plain(tools) if tools else None,
                documents=plain(documents) if documents else None,
                add_generation_prompt=add_generation_prompt,
                **{name: plain(value) for name, value in (variables or {}).items()},
            )
        except jinja2.TemplateError as error:
            raise InvalidRequest(
                "messages", f"the chat template refuses them: {error}", "change the messages"
            ) from error
        except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:
            raise InvalidRequest(
                "messages", f"the chat template cannot render them: {error}", "change the messages or the template"
            ) from error
        return _cut_at_mark(text) if continue_final_message else text


def read_templates(path: Path, config: Mapping[str, Any]) -> ChatTemplates:
    """chat_template.jinja and additional_chat_templates/*.jinja, before what tokenizer_config.json says."""
    named: dict[str, str] = {}
    configured = config.get("chat_template")
    if configured is None and (path / "chat_template.json").is_file():
        configured = json.loads((path / "chat_template.json").read_text(encoding="utf-8")).get("chat_template")
    if isinstance(configured, str):
        named["default"] = configured
    elif isinstance(configured, Mapping):
        named |= {str(name): str(template) for name, template in configured.items()}
    elif isinstance(configured, list):
        named |= {entry["name"]: entry["template"] for entry in configured}
    if (path / "chat_template.jinja").is_file():
        named["default"] = (path / "chat_template.jinja").read_text(encoding="utf-8")
    for file in sorted((path / "additional_chat_templates").glob("*.jinja")):
        named[file.stem] = file.read_text(encoding="utf-8")
    return ChatTemplates(named)


def read_template(template: str | Path | None) -> str | None:
    """A chat template's source; a path, or a text that names a file, is read."""
    if isinstance(template, Path) or (template and "{" not in template and Path(template).is_file()):
        return Path(template).read_text(encoding="utf-8")
    return template


def plain(value: Any) -> Any:
    """Rebuilt from JSON types only, so that a template can reach no method of the caller's objects."""
    if value is None or isinstance(value, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value) if type(value) is not kind else value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    if callable(dump := getattr(value, "model_dump", None)):  # pydantic
        return plain(dump())
    return f"<{type(value).__name__}>"


@lru_cache(maxsize=64)
def compile_template(source: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlocks, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    try:
        return environment.from_string(source)
    except jinja2.TemplateError as error:
        hint = "give Jinja source" if "{" in source else "give Jinja source or the name of one of the model's templates"
        raise InvalidRequest("chat_template", f"it does not compile: {error}", hint) from error


class GenerationBlocks(Extension):
    """`{% generation %}…{% endgeneration %}` marks the assistant's tokens for training; here the inside is rendered."""

    tags = {"generation"}  # noqa: RUF012  (the attribute that Jinja reads)

    def parse(self, parser: Any) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Unlike Jinja's own filter: no HTML escapes, and characters stay as they are."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _message(message: Any, template: str, place: int) -> dict[str, Any]:
    """One message as templates expect it: text parts joined to a string, tool arguments as objects."""
    message = plain(message)
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise InvalidRequest("messages", f"message {place} has no role", 'send {"role": …, "content": …}')
    content = message.get("content")
    if isinstance(content, list) and not wants_parts(template):
        message["content"] = _joined(content, place)
    elif isinstance(content, list):
        message["content"] = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
    reasoning = next((message[name] for name in REASONING if message.get(name) is not None), None)
    if reasoning is not None:
        message = {"thinking": reasoning, **message, "reasoning_content": reasoning}
    for call in message.get("tool_calls") or []:
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict) and isinstance(function.get("arguments"), str):
            try:
                function["arguments"] = json.loads(function["arguments"] or "{}")
            except ValueError as error:
                raise InvalidRequest(
                    "messages", f"message {place}: a tool call's arguments are not JSON ({error})", "send a JSON object"
                ) from error
    return message


@lru_cache(maxsize=64)
def wants_parts(template: str) -> bool:
    """True for a template that loops over the parts of a content: it gets the list, not the joined text."""
    try:
        tree = jinja2.Environment(extensions=[GenerationBlocks, loopcontrols]).parse(template)
    except jinja2.TemplateError:
        return False
    return any(_is_content(loop.iter) for loop in tree.find_all(nodes.For))


def _is_content(node: nodes.Node) -> bool:
    """message.content, message['content'], or a variable named content, filters included."""
    while isinstance(node, nodes.Filter) and node.node is not None:
        node = node.node
    if isinstance(node, nodes.Getattr):
        return node.attr == "content"
    if isinstance(node, nodes.Getitem):
        return isinstance(node.arg, nodes.Const) and node.arg.value == "content"
    return isinstance(node, nodes.Name) and node.name == "content"


def _joined(parts: list[Any], place: int) -> str:
    texts = []
    for part in parts:
        text = part if isinstance(part, str) else part.get("text") if isinstance(part, dict) else None
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise InvalidRequest("messages", f"message {place} has a part of type {kind!r}", "send parts of type text")
        texts.append(text)
    return "\n".join(texts)


def _mark_end(message: dict[str, Any]) -> None:
    content = message.get("content")
    if isinstance(content, str):
        message["content"] = content + END_MARK
        return
    for part in reversed(content or []):
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            part["text"] += END_MARK
            return
    raise InvalidRequest("continue_final_message", "the last message has no text", "send one with text to continue")


def _cut_at_mark(text: str) -> str:
    before, mark, after = text.rpartition(END_MARK.strip())
    if not mark:
        raise InvalidRequest(
            "continue_final_message", "the chat template leaves the last message out", "use another template or message"
        )
    # A template that trims the message took the mark's own trailing space, so it also wants the message's.
    return before if after.startswith(" ") else before.rstrip()
