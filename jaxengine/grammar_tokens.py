"""A model's vocabulary as llguidance wants it: the bytes of every token, and how the tokenizer cuts text into them.

`grammar.py` reads it once. Ids that spell nothing (gaps, padding beyond the tokenizer's vocabulary) are never allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxengine.tokenizer import Tokenizer

if TYPE_CHECKING:
    import llguidance

SPECIAL = b"\xff"  # in no text: begins the spelling of special tokens, which no text is made of
LEADS = ("", "\n")  # texts to tokenize behind: some tokenizers put a space in front of what they take for a beginning


class Vocabulary:
    """What llguidance asks of a tokenizer: the four attributes, and ids for text when called."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        self.tokenizer, self.vocab_size = tokenizer, vocab_size
        self.eos_token_ids = list(eos_token_ids)
        self.eos_token_id = self.eos_token_ids[0]
        self.bos_token_id = None
        self.special_token_ids = sorted({*tokenizer.special_ids, *eos_token_ids} & set(range(vocab_size)))
        self.tokens: list[bytes] = []
        self._table: llguidance.LLTokenizer | None = None

    def read(self) -> llguidance.LLTokenizer:
        import llguidance

        spelled = min(self.vocab_size, self.tokenizer.max_token_id + 1)
        self.tokens = [self.tokenizer.token_bytes(token) or b"" for token in range(spelled)]
        self.tokens += [b""] * (self.vocab_size - spelled)
        for token in self.special_token_ids:
            self.tokens[token] = SPECIAL + self.tokens[token]
        self._table = llguidance.LLTokenizer(llguidance.TokenizerWrapper(self), eos_token=self.eos_token_ids)
        return self._table

    def __call__(self, text: bytes) -> list[int]:
        """How the tokenizer writes a text that follows other text; any way to write it, where that cannot be told."""
        string = text.decode("utf-8", "replace")
        for lead in LEADS:
            ids = self.tokenizer.encode(lead + string, add_special_tokens=False)
            spelled = [self.tokens[id] if id < self.vocab_size else SPECIAL for id in ids]
            excess = sum(map(len, spelled)) - len(text)
            first = 0
            while excess > 0 and first < len(ids):
                excess -= len(spelled[first])
                first += 1
            if excess == 0 and b"".join(spelled[first:]) == text:
                return ids[first:]
        return [] if self._table is None else self._table.greedy_tokenize(string)
