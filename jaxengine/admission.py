"""What the host sends to the sampler's state when a request enters a slot: limits, and the packed int32 vectors.

The runner sends `admission_chunks` to `sampler_state.admit`, also on resume after preemption: they hold all that is
known by then. Nothing here imports jax. One vector is enough for any prompt (its tokens travel as bits); a resumed
request with more than COUNTS distinct output tokens needs more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jaxengine.fields import lay_out
from jaxengine.request import InvalidRequest, Request, SamplingParams

EDITS = 1024  # logit_bias entries, eos and stop tokens of one request
BAD_WORDS = 128  # token sequences of one request's bad_words
BAD_WORD_TOKENS = 32  # tokens of one such sequence
TAIL = BAD_WORD_TOKENS - 1  # output tokens that a bad word can be matched against
COUNTS = 1024  # (token, count) pairs in one vector
MAX_COUNT = 2**15 - 1  # counts are int16 on the device and stop here
ALWAYS = 2**31 - 1  # an edit that holds for any number of output tokens

# Features: the parts of its slot's state that a row uses; a grammar's mask comes with each step instead.
PENALTIES, ALLOWED, BANNED, EDITED, GRAMMAR = 1, 2, 4, 8, 16


def features(params: SamplingParams) -> int:
    """Which parts of the sampler's state the request uses, a sum of the constants above; 0: none."""
    penalised = params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1.0
    parts = {
        PENALTIES: bool(penalised),
        ALLOWED: params.allowed_token_ids is not None,
        BANNED: bool(params.bad_words),
        EDITED: bool(params.logit_bias) or params.min_tokens > 0,
        GRAMMAR: params.structured_outputs is not None,
    }
    return sum(part for part, used in parts.items() if used)


def needs_full(params: SamplingParams) -> bool:
    """Whether the request needs the full program: it changes logits by what it remembers, or it wants logprobs."""
    return params.logprobs is not None or params.prompt_logprobs is not None or features(params) != 0


def tokenize_bad_words(bad_words: Sequence[str], encode: Callable[[str], Sequence[int]]) -> list[list[int]]:
    """The token sequences of each word, as it starts a text and as it follows a space.

    encode: text → token ids, without special tokens. The second form counts only if it has a first token of its own
    and the same length, as in vLLM; other tokenizations of the same text are not found. Raises InvalidRequest.
    """
    sequences = []
    for word in bad_words:
        alone, spaced = list(encode(word.lstrip())), list(encode(" " + word.lstrip()))
        if not alone:
            raise InvalidRequest("bad_words", f"{word!r} makes no token", "leave it out")
        sequences.append(alone)
        if spaced[:1] != alone[:1] and len(spaced) == len(alone):
            sequences.append(spaced)
    return sequences


def check_caps(
    params: SamplingParams, eos_token_ids: Collection[int] = (), bad_words: Sequence[Sequence[int]] = ()
) -> None:
    """Raises InvalidRequest where a request holds more than a slot has room for. bad_words: token sequences."""
    stops = len(_stops(params, eos_token_ids))
    edits = len(params.logit_bias or ()) + stops
    if edits > EDITS:
        room = EDITS - stops
        if room >= 0:
            raise InvalidRequest("logit_bias", f"{edits - stops} entries are too many", f"use at most {room}")
        raise InvalidRequest(
            "stop_token_ids", f"{stops} are too many with min_tokens", f"use at most {EDITS} stop tokens"
        )
    if len(bad_words) > BAD_WORDS:
        problem = f"{len(bad_words)} token sequences are too many"
        raise InvalidRequest("bad_words", problem, f"use at most {BAD_WORDS}: a word makes one or two")
    longest = max(map(len, bad_words), default=0)
    if longest > BAD_WORD_TOKENS:
        problem = f"a word of {longest} tokens is too long"
        raise InvalidRequest("bad_words", problem, f"use words of at most {BAD_WORD_TOKENS} tokens")


@dataclass(frozen=True)
class AdmissionLayout:
    """Where each field of an admission vector lies."""

    vocab: int

    @property
    def words(self) -> int:
        """int32 words that hold a bit for every token."""
        return -(-self.vocab // 32)

    @cached_property
    def offsets(self) -> dict[str, tuple[int, int]]:
        sizes = {"slot": 1, "first": 1, "tail": TAIL, "count_ids": COUNTS, "counts": COUNTS}
        sizes |= {"in_prompt": self.words, "allowed": self.words}
        sizes |= {"edit_ids": EDITS, "edit_bias": EDITS, "edit_until": EDITS}
        sizes |= {"bad_words": BAD_WORDS * BAD_WORD_TOKENS}
        return lay_out(sizes)

    @property
    def size(self) -> int:
        return max(end for _, end in self.offsets.values())


def admission_chunks(request: Request, vocab: int, bad_words: Sequence[Sequence[int]] = ()) -> list[np.ndarray]:
    """The vectors to `admit` in order, before the first step that samples for this request; [] if it needs none.

    bad_words: the token sequences of params.bad_words (see tokenize_bad_words).
    """
    params, used = request.params, features(request.params)
    if not used & ~GRAMMAR:
        return []
    outputs = np.asarray(request.output_token_ids, np.int32)
    ids, counts = np.unique(outputs, return_counts=True)
    chunks = []
    for start in range(0, max(len(ids), 1), COUNTS):
        chunk, field = _blank(request.slot, vocab)
        field["first"][0] = start == 0
        some = slice(start, start + COUNTS)
        field["count_ids"][: len(ids[some])] = ids[some]
        field["counts"][: len(ids[some])] = np.minimum(counts[some], MAX_COUNT)
        if used & PENALTIES:
            field["in_prompt"][:] = _bits(request.prompt_token_ids, vocab)
        if used & ALLOWED:
            field["allowed"][:] = _bits(params.allowed_token_ids or (), vocab)
        if used & BANNED:
            if not bad_words:
                raise ValueError("params.bad_words must be given as token sequences, see tokenize_bad_words")
            _place_bad_words(field["bad_words"].reshape(BAD_WORDS, BAD_WORD_TOKENS), bad_words)
        if tail := outputs[-TAIL:].tolist():
            field["tail"][-len(tail) :] = tail
        _place_edits(field, params, request.eos_token_ids)
        chunks.append(chunk)
    return chunks


def empty_admission(slots: int, vocab: int) -> list[np.ndarray]:
    """Vectors that change nothing but the scratch slot: to compile and warm `admit`."""
    chunk, _ = _blank(slots, vocab)
    return [chunk]


def _blank(slot: int, vocab: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    layout = AdmissionLayout(vocab)
    chunk = np.zeros(layout.size, np.int32)
    field = {name: chunk[start:end] for name, (start, end) in layout.offsets.items()}
    field["slot"][0] = slot
    field["count_ids"][:] = vocab
    field["edit_ids"][:] = vocab
    field["tail"][:] = -1
    field["bad_words"][:] = -1
    return chunk, field


def _bits(tokens: Collection[int], vocab: int) -> np.ndarray:
    """[words] int32: bit t % 32 of word t // 32 is set for each token t."""
    member = np.zeros(AdmissionLayout(vocab).words * 32, bool)
    member[np.fromiter(tokens, np.int64, len(tokens))] = True
    return np.packbits(member, bitorder="little").view("<i4")


def _stops(params: SamplingParams, eos_token_ids: Collection[int]) -> list[int]:
    """The tokens that min_tokens forbids for a while."""
    if not params.min_tokens:
        return []
    return sorted(set(eos_token_ids) | set(params.stop_token_ids or ()))


def _place_edits(field: dict[str, np.ndarray], params: SamplingParams, eos_token_ids: Collection[int]) -> None:
    edits = [(token, bias, ALWAYS) for token, bias in (params.logit_bias or {}).items()]
    edits += [(token, -np.inf, params.min_tokens) for token in _stops(params, eos_token_ids)]
    for i, (token, bias, until) in enumerate(edits):
        field["edit_ids"][i], field["edit_until"][i] = token, until
        field["edit_bias"][i] = np.float32(bias).view(np.int32)


def _place_bad_words(table: np.ndarray, bad_words: Sequence[Sequence[int]]) -> None:
    """Right-aligned, so that the last column is the token to forbid and the others are what must precede it."""
    for row, sequence in zip(table, bad_words, strict=False):
        row[-len(sequence) :] = sequence
