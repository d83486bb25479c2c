"""Prompts of `bench serve`: token ids of a dataset become texts of just as many tokens, which any server takes.

A tokenizer on this machine does it, or else the server's own, behind /tokenize and /detokenize.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, Protocol

from jaxengine import EngineConfig
from jaxengine.engine_tokenizer import engine_tokenizer, is_local
from jaxengine.tokenizer import Tokenizer
from serving.commands.bench.datasets import Sample
from serving.commands.remote import Remote

SERVER_IDS = range(256, 10_000)  # ids that all but the smallest models have, without special tokens at the beginning
ATTEMPTS = 10  # to find a text of the length asked for


@dataclass(frozen=True)
class Prompt:
    text: str
    num_tokens: int
    output_len: int  # tokens to generate


class TextTokens(Protocol):
    """Prompts are made of the ids below vocab_size that are not in `left_out`."""

    vocab_size: int
    left_out: frozenset[int]

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


class LocalTokens:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.vocab_size = tokenizer.vocab_size
        texts = map(tokenizer.token_text, range(self.vocab_size))
        broken = {id for id, text in enumerate(texts) if not text or "\ufffd" in text}
        self.left_out = tokenizer.special_ids | broken  # pieces of characters would not come back from a text

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids)


class ServerTokens:
    def __init__(self, remote: Remote) -> None:
        self.remote = remote
        self.vocab_size, self.left_out = SERVER_IDS.stop, frozenset(range(SERVER_IDS.start))
        while self.vocab_size > 2 * SERVER_IDS.start and not self.decode([self.vocab_size - 1]):
            self.vocab_size //= 2  # a small vocabulary

    def encode(self, text: str) -> list[int]:
        asked: dict[str, Any] = {"model": self.remote.model, "prompt": text, "add_special_tokens": False}
        return self.remote.ask("POST", "/tokenize", **asked)["tokens"]

    def decode(self, ids: Sequence[int]) -> str:
        return self.remote.ask("POST", "/detokenize", model=self.remote.model, tokens=list(ids))["prompt"]


def find_tokenizer(name: str | None, server: Remote) -> tuple[str, Tokenizer] | None:
    """The tokenizer that the user named, or that of the server's model if it lies on this machine; and its name."""
    if name is None:
        roots = [card.get("root") for card in server.cards() if card["id"] == server.model]
        name = next((root for root in roots if root and is_local(root)), None)
    if name is None:
        return None
    tokenizer = engine_tokenizer(EngineConfig(model=name))
    return None if tokenizer is None else (name, tokenizer)


def as_prompt(sample: Sample, tokens: TextTokens) -> Prompt:
    """The sample as a text of exactly its length, where the tokenizer allows that: neighbours may become one token."""
    ids, length = sample.prompt_token_ids, len(sample.prompt_token_ids)
    for _ in range(ATTEMPTS):
        text = tokens.decode(ids)
        again = tokens.encode(text)
        if len(again) == length:
            break
        ids = [*again, *islice(cycle(again or sample.prompt_token_ids), length)][:length]
    return Prompt(text, len(again), sample.output_len)
