"""Thinking blocks: what a model writes between two tags before it answers. One description a family, one reader.

Whether thinking has begun, is over or is the model's to begin is the prompt's to say: many templates end with the
opening tag, or with an empty block where `enable_thinking` is off. `tools/message.py` reads with this,
`tools/forced.py` writes it into grammars. gpt-oss thinks on a channel: `tools/openai.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from serving.tools import openai
from serving.tools.events import Reasoning
from serving.tools.lark import Lark
from serving.tools.source import SPACES, Source, Steps, told


class State(Enum):
    """Where an answer begins."""

    INSIDE = "inside"  # the prompt has opened the block
    BEFORE = "before"  # the model may open one
    AFTER = "after"  # the prompt has closed it


@dataclass(frozen=True)
class Thinking:
    """How a family of models thinks."""

    name: str
    opening: str
    closing: str
    recognises: Callable[[str], bool]  # a chat template
    unseen: State = State.BEFORE  # where its answers begin when the prompt is not known
    keeps_special_tokens: bool = False

    def state(self, prompt: str | None, continued: str = "") -> State:
        """Only the end of the prompt counts, and what it holds of the answer: users mention tags, too."""
        if continued.strip():
            opened = continued.rfind(self.opening) > continued.rfind(self.closing)
            return State.INSIDE if opened else State.AFTER
        if prompt is None:
            return self.unseen
        end = prompt.rstrip()
        if end.endswith(self.opening):
            return State.INSIDE
        return State.AFTER if end.endswith(self.closing) else State.BEFORE


def read_thinking(source: Source, thinking: Thinking, state: State, ends: tuple[str, ...] = ()) -> Steps[None]:
    """The block, if there is one: only at the answer's beginning are the tags tags.

    `ends`: markers of calls, which end a block that the model forgot to close.
    """
    if state is State.AFTER:
        return
    source.keep()
    yield from source.run(SPACES)
    if (yield from source.accept(thinking.opening)):  # even where the prompt had it: models repeat it
        source.release()
    else:
        source.back()
        if state is State.BEFORE:
            return
    yield Reasoning("")  # whatever follows is another kind of text
    marker = yield from told(source.until(thinking.closing, *ends), Reasoning)
    if marker in ends:
        source.unread(marker)


def thinking_grammar(lark: Lark, thinking: Thinking, state: State) -> str:
    """What may or must come before a forced answer."""
    if thinking.opening == "":
        return openai.final_grammar(lark)
    if state is State.AFTER:
        return ""
    block = lark.rule(rf"{lark.free_text(thinking.closing)} (/\n{{1,2}}/)?")
    return block if state is State.INSIDE else f"({lark.text(thinking.opening)} {block})?"


_FAMILIES = (
    Thinking("openai", "", "", openai.recognises, keeps_special_tokens=True),
    Thinking("mistral", "[THINK]", "[/THINK]", lambda template: "[THINK]" in template, keeps_special_tokens=True),
    Thinking("glm45", "<think>", "</think>", lambda template: "[gMASK]" in template and "</think>" in template),
    Thinking(
        "deepseek_r1",
        "<think>",
        "</think>",
        lambda template: "<｜Assistant｜>" in template and "</think>" in template,
        unseen=State.INSIDE,
    ),
    Thinking("qwen3", "<think>", "</think>", lambda template: "<think>" in template or "</think>" in template),
)
REASONING = {thinking.name: thinking for thinking in _FAMILIES}
REASONING["openai_gptoss"] = REASONING["openai"]  # as vLLM calls it


def detect_reasoning_parser(chat_template: str) -> str | None:
    """The name of the family whose template this is; None for models that do not think."""
    for name, thinking in REASONING.items():
        if thinking.recognises(chat_template):
            return name
    return None
