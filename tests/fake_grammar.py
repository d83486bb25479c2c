"""A grammar that allows everything, compiled and written when a test says so."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

ANYTHING = np.full(1, -1, np.int32)


class FakeMatcher:
    """Its mask is written by `write`. `ends`: how the output ends, by its length in tokens."""

    def __init__(self, tokens: Sequence[int], ends: dict[int, str]) -> None:
        self.tokens = list(tokens)
        self.ends = ends
        self.mask: np.ndarray | None = ANYTHING

    def advance(self, token: int) -> str | None:
        assert self.mask is not None, "sampled before it was known what may be"
        self.tokens.append(token)
        self.mask = None
        return self.ends.get(len(self.tokens))

    def write(self) -> None:
        self.mask = ANYTHING


class FakeGrammar:
    """Goes into a request as `grammar`, a future; `compile` fulfils it."""

    def __init__(self, ends: dict[int, str] | None = None) -> None:
        self.ends = ends or {}
        self.future: Future[Any] = Future()
        self.matchers: list[FakeMatcher] = []

    def compile(self, error: Exception | None = None) -> None:
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(self)

    def matcher(self, tokens: Sequence[int], request_id: str) -> FakeMatcher:
        self.matchers.append(FakeMatcher(tokens, self.ends))
        return self.matchers[-1]
