"""Token ids to text while they arrive, and the stop strings in that text.

`outputs.py` makes one Detokenizer a sequence and feeds it token by token. The work per token does not grow with the
text: byte tables for the common tokenizers, a short sliding window for the others.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Protocol

from jaxengine.request import SamplingParams
from jaxengine.tokenizer import Tokenizer

REPLACEMENT = "\ufffd"
CONTEXT_TOKENS = 6  # tokens before the window: decoders that look back (spaces, clean-up) look back less than that
LONGEST_CHARACTER = 8  # tokens; what is still no character after that is shown as it is


class TextStream(Protocol):
    """Text of a growing list of tokens: the concatenation of all that was returned is the text of all tokens."""

    def feed(self, token: int) -> str: ...
    def flush(self) -> str: ...


class ByteStream:
    """For tokenizers whose tokens are bytes: one dictionary look-up and an incremental UTF-8 decoder."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], skip_special: bool) -> None:
        assert tokenizer.byte_decoder is not None
        self._tokenizer = tokenizer
        self._table = tokenizer.bytes_table(skip_special)
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._strip = tokenizer.byte_decoder.strip_first and not any(map(self._bytes, reversed(prompt)))

    def _bytes(self, token: int) -> bytes:
        data = self._table.get(token)
        if data is None:
            data = self._table[token] = self._tokenizer.token_bytes(token) or b""
        return data

    def feed(self, token: int) -> str:
        data = self._table.get(token)
        if data is None:
            data = self._bytes(token)
        if self._strip and data:
            self._strip = False
            data = data.removeprefix(b" ")
        return self._utf8.decode(data)

    def flush(self) -> str:
        return self._utf8.decode(b"", True)


class WindowStream:
    """For any other tokenizer: decode the last few tokens with and without the new one; the difference is new text."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], skip_special: bool, spaces: bool) -> None:
        self._decode = tokenizer.backend.decode
        self._skip = skip_special
        self._ids = list(prompt[-CONTEXT_TOKENS:])
        self._begin = 0  # of the window
        self._read = len(self._ids)  # tokens whose text was returned
        # Without spaces between special tokens, the second of two neighbouring added tokens is shown as it is written.
        self._added = {} if spaces or skip_special else tokenizer.added_tokens
        self._last_added = False

    def feed(self, token: int) -> str:
        added = self._added.get(token)
        after_added, self._last_added = self._last_added, added is not None
        self._ids.append(token)
        if added is not None and after_added and self._read == len(self._ids) - 1:
            self._advance()
            return added
        before, now = self._texts()
        late = len(self._ids) - self._read >= LONGEST_CHARACTER
        if not late and (len(now) <= len(before) or now.endswith(REPLACEMENT)):
            return ""
        self._advance()
        return now[len(before) :]

    def flush(self) -> str:
        before, now = self._texts()
        self._advance()
        return now[len(before) :]

    def _texts(self) -> tuple[str, str]:
        window = self._ids[self._begin :]
        before = self._decode(window[: self._read - self._begin], skip_special_tokens=self._skip)
        return before, self._decode(window, skip_special_tokens=self._skip)

    def _advance(self) -> None:
        self._begin, self._read = max(self._read - CONTEXT_TOKENS, 0), len(self._ids)
        if self._begin > 256:  # forget what no window will need
            del self._ids[: self._begin]
            self._read -= self._begin
            self._begin = 0


def text_stream(tokenizer: Tokenizer, prompt: Sequence[int], skip_special: bool, spaces: bool = True) -> TextStream:
    """A stream of the text that follows `prompt` (which decides about a leading space)."""
    if tokenizer.byte_decoder is not None:
        return ByteStream(tokenizer, prompt, skip_special)
    return WindowStream(tokenizer, prompt, skip_special, spaces)


class Detokenizer:
    """The text of one sequence, and its end where a stop string appears.

    A match ends the text where the stop string begins, or after it with include_stop_str_in_output. Of several stop
    strings the one that is complete first counts, then the longest: the cut into tokens makes no difference. Text that
    may turn out to begin a stop string is held back until the next token decides.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], params: SamplingParams) -> None:
        self._stream = text_stream(tokenizer, prompt, params.skip_special_tokens, params.spaces_between_special_tokens)
        self._stops = list(params.stop or ())
        self._include = params.include_stop_str_in_output
        self._unchecked = params.min_tokens  # tokens in which no stop string may end
        self._partial = ""  # end of the text so far that begins a stop string
        self.stopped: str | None = None  # the stop string found

    def feed(self, token: int) -> str:
        """Text to show now. After a match (`stopped`), feed nothing more."""
        self._unchecked -= 1
        text = self._stream.feed(token)
        if not self._stops or not text:
            return text
        known = len(self._partial)
        buffer = self._partial + text
        if self._unchecked < 0 and (match := self._match(buffer, known)):
            begin, end, self.stopped = match
            return buffer[known:end] if self._include else buffer[:begin]
        self._partial = buffer[self._begin_of_partial(buffer) :]
        return text if self._include else buffer[: len(buffer) - len(self._partial)]

    def finish(self) -> str:
        """The last text: what was held back, and U+FFFD for a character that never became whole."""
        if self.stopped is not None:
            return ""
        return ("" if self._include else self._partial) + self._stream.flush()

    def _match(self, buffer: str, known: int) -> tuple[int, int, str] | None:
        """First stop string that ends after `known` characters, as (begin, end, string)."""
        found = []
        for stop in self._stops:
            begin = buffer.find(stop, max(known - len(stop) + 1, 0))
            if begin >= 0:
                found.append((begin + len(stop), begin, stop))
        if not found:
            return None
        end, begin, stop = min(found)
        return begin, end, stop

    def _begin_of_partial(self, buffer: str) -> int:
        """Where the longest proper beginning of a stop string starts that the buffer ends with."""
        best = len(buffer)
        for stop in self._stops:
            begin = buffer.find(stop[0], max(len(buffer) - len(stop) + 1, 0), best)
            while begin >= 0 and not stop.startswith(buffer[begin:]):
                begin = buffer.find(stop[0], begin + 1, best)
            if begin >= 0:
                best = begin
        return best
