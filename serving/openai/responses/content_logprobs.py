"""Logprobs of an answer's text proper: of the tokens that made it, and not of those of thoughts and calls.

For that the text is read token by token, each with the piece of text that it adds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from jaxengine.detokenize import text_stream
from jaxengine.request import CompletionOutput, SamplingParams
from serving.openai.logprobs import Speller, chat_logprobs
from serving.openai.wire import TokenLogprob


class ContentLogprobs:
    """Of one answer. `k`: how many of the most likely tokens are listed at each place."""

    def __init__(self, speller: Speller, prompt: list[int], params: SamplingParams, k: int) -> None:
        assert speller.tokenizer is not None
        shown = params.skip_special_tokens, params.spaces_between_special_tokens
        self.speller, self.k = speller, k
        self._stream = text_stream(speller.tokenizer, prompt, *shown)
        self._text = ""  # that no token has taken yet: stop strings hold text back, and cut it off
        self._tokens: deque[tuple[str, TokenLogprob]] = deque()  # that wait for their text
        self._read: list[tuple[str, TokenLogprob]] = []  # whose text may still turn out to be content

    def pieces(self, completion: CompletionOutput) -> Iterator[str]:
        """The new text, a token a piece."""
        self._text += completion.text
        told = chat_logprobs(completion.token_ids, completion.logprobs or (), self.speller, self.k)
        for token, logprob in zip(completion.token_ids, told.content, strict=True):
            self._tokens.append((self._stream.feed(token), logprob))
        ended = completion.finish_reason is not None
        while self._tokens and (ended or len(self._tokens[0][0]) <= len(self._text)):
            piece, logprob = self._tokens.popleft()
            piece, self._text = self._text[: len(piece)], self._text[len(piece) :]
            self._read.append((piece, logprob))
            yield piece
        if ended and self._text:
            yield self._text

    def of(self, content: str) -> list[TokenLogprob]:
        """Of the last tokens that were read, as many as have this text."""
        found, lacking = [], len(content)
        while self._read and (lacking > 0 or not self._read[-1][0]):
            piece, logprob = self._read.pop()
            lacking -= len(piece)
            found.append(logprob)
        self._read.clear()
        return found[::-1]
