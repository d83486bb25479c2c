"""Random outputs under a grammar: what a model at infinite temperature would write."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from jaxengine.grammar import Grammars, Matcher
from jaxengine.structured_outputs import StructuredOutputsParams
from jaxengine.tokenizer import Tokenizer


@contextmanager
def grammars(tokenizer: Tokenizer, vocab_size: int | None = None, eos: tuple[int, ...] = ()) -> Iterator[Grammars]:
    made = Grammars(tokenizer, vocab_size or tokenizer.max_token_id + 1, eos)
    yield made
    made.close()


def allowed(made: Grammars, matcher: Matcher) -> list[int]:
    if matcher.mask is None:
        made.write_masks(patience=10.0)
    assert matcher.mask is not None
    assert matcher.mask.shape == (-(-made.vocab_size // 32),)
    bits = np.unpackbits(matcher.mask.view(np.uint8), bitorder="little")
    tokens = np.flatnonzero(bits).tolist()
    assert all(token < made.vocab_size for token in tokens)
    return tokens


def walk(made: Grammars, params: StructuredOutputsParams, seed: int, most: int = 60) -> tuple[bytes, str | None]:
    """(the text, how it ended: "stop", "error", or None after `most` tokens). Short ones come about more often."""
    choose = random.Random(seed)
    matcher = made.compile(params).result(10.0).matcher()
    text, ended = b"", None
    for _ in range(most):
        tokens = allowed(made, matcher)
        ends = [token for token in tokens if token in made.eos_token_ids]
        token = choose.choice(ends if ends and choose.random() < 0.3 else tokens)
        ended = matcher.advance(token)
        if token not in made.eos_token_ids:
            assert made.tokenizer is not None
            text += made.tokenizer.token_bytes(token) or b""
        if ended:
            break
    return text, ended
