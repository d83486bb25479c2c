"""What a corpus is made of: exchanges of a conversation, plain texts, and the line to the held-out."""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

Message = dict[str, Any]
HELD_OUT_SHARE = 20  # one key in twenty is never seen in training


def is_held_out(key: str) -> bool:
    """Whether the question with this key belongs to the evaluation. The empty key always belongs to training."""
    return key != "" and blake2b(key.encode(), digest_size=4).digest()[0] * HELD_OUT_SHARE < 256


@dataclass(frozen=True)
class Exchange:
    """A user message and what follows it up to the assistant's final answer.

    `short` is the answer when the system prompt asks for nothing but the answer; `tools` are the ones it needs.
    """

    key: str
    messages: tuple[Message, ...]
    short: str | None = None
    tools: tuple[dict[str, Any], ...] = ()

    @staticmethod
    def of(key: str, user: str, answer: str, short: str | None = None) -> "Exchange":
        return Exchange(key, (says("user", user), says("assistant", answer)), short)


@dataclass(frozen=True)
class Plain:
    """A text without turns, for completion."""

    key: str
    text: str


@dataclass(frozen=True)
class Conversation:
    """Messages as the chat template takes them, with the tools offered; `domain` names it in the evaluation."""

    domain: str
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()


def says(role: str, content: str) -> Message:
    return {"role": role, "content": content}
