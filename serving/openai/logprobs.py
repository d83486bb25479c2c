"""The engine's logprobs in the three shapes that answers have: completions', chats', and the prompt's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jaxengine.request import Logprob
from jaxengine.tokenizer import Tokenizer
from serving.openai.wire import ChatLogprobs, CompletionLogprobs, PromptLogprob, TokenLogprob, TopLogprob

Places = Iterable[tuple[int, dict[int, Logprob] | None]]  # token and what was likely there; None: nothing is known

LEAST = -9999.0  # JSON has no infinity


@dataclass(frozen=True)
class Speller:
    """How tokens are written in logprobs. `as_ids`: as `token_id:N`, which tells tokens of one spelling apart."""

    tokenizer: Tokenizer | None
    as_ids: bool

    def text(self, token: int) -> str:
        if self.as_ids or self.tokenizer is None:
            return f"token_id:{token}"
        return self.tokenizer.token_text(token)

    def length(self, token: int) -> int:
        """Characters that it adds to the text."""
        return 0 if self.tokenizer is None else len(self.tokenizer.token_text(token))

    def bytes(self, token: int) -> list[int] | None:
        """A token may be a part of a character, which its text cannot show."""
        if self.tokenizer is None:
            return None
        data = self.tokenizer.token_bytes(token)
        return list(self.tokenizer.token_text(token).encode() if data is None else data)


def completion_logprobs(places: Places, speller: Speller, offset: int) -> tuple[CompletionLogprobs, int]:
    """With the characters up to their end. `offset`: characters that come before these tokens."""
    result = CompletionLogprobs(text_offset=[], token_logprobs=[], tokens=[], top_logprobs=[])
    for token, likely in places:
        text = speller.text(token)
        result.text_offset.append(offset)
        result.tokens.append(text)
        result.token_logprobs.append(None if likely is None else max(likely[token].logprob, LEAST))
        result.top_logprobs.append(
            None if likely is None else {speller.text(id): max(entry.logprob, LEAST) for id, entry in likely.items()}
        )
        offset += speller.length(token)
    return result, offset


def chat_logprobs(
    tokens: Sequence[int], logprobs: Sequence[dict[int, Logprob]], speller: Speller, k: int
) -> ChatLogprobs:
    """`k`: how many of the most likely tokens are listed at each place."""
    content = []
    for token, likely in zip(tokens, logprobs, strict=True):
        ranked = sorted((entry.rank or 0, id) for id, entry in likely.items())
        content.append(
            TokenLogprob(
                token=speller.text(token),
                logprob=max(likely[token].logprob, LEAST),
                bytes=speller.bytes(token),
                top_logprobs=[
                    TopLogprob(token=speller.text(id), logprob=max(likely[id].logprob, LEAST), bytes=speller.bytes(id))
                    for _, id in ranked[:k]
                ],
            )
        )
    return ChatLogprobs(content=content)


def prompt_logprobs(places: Sequence[dict[int, Logprob] | None]) -> list[dict[str, PromptLogprob] | None]:
    return [
        None
        if likely is None
        else {
            str(id): PromptLogprob(
                logprob=max(entry.logprob, LEAST), rank=entry.rank, decoded_token=entry.decoded_token
            )
            for id, entry in likely.items()
        }
        for likely in places
    ]
