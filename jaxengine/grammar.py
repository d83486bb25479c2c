"""Grammars that whole outputs must follow, by llguidance: compiled beside the steps, and what may come next in each.

The core asks for a grammar when a request comes, and lets masks be written between steps; the scheduler lets a request
wait for its grammar, and each of its rows for its mask; the runner sends the masks with the step. Compiling and writing
happen in threads, without the interpreter's lock.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import logging
import os
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Literal

import numpy as np

from jaxengine.grammar_text import grammar_text
from jaxengine.grammar_tokens import Vocabulary
from jaxengine.invalid_request import InvalidRequest
from jaxengine.structured_outputs import StructuredOutputsParams
from jaxengine.tokenizer import Tokenizer

if TYPE_CHECKING:
    import llguidance

logger = logging.getLogger(__name__)

CACHED = 128  # grammars kept compiled
QUICK = 0.05  # seconds in which a grammar must compile to be compiled several times
MOST_COPIES = 8
PATIENCE = 0.001  # seconds that a step waits for masks: most are written in a tenth of it, and the device is busy
REST = 0.005  # seconds between looks at what else there may be to do, while all that runs waits for grammars


class Matcher:
    """One sequence's way through its grammar. `mask` is None from `advance` until it has been written."""

    __slots__ = ("_advanced", "_inner", "_words", "mask", "request_id", "template")

    def __init__(
        self, template: llguidance.LLMatcher, mask: np.ndarray, advanced: list[Matcher], request_id: str
    ) -> None:
        self.request_id = request_id  # for the log
        self.template = template  # matchers with the same one take turns
        self.mask: np.ndarray | None = mask  # [ceil(V / 32)] int32, bit t % 32 of word t // 32: token t may come next
        self._words = len(mask)
        self._inner = template.deep_copy()
        self._advanced = advanced

    def advance(self, *tokens: int) -> Literal["stop", "error"] | None:
        """Take what was sampled. "stop": the output is complete and nothing else can follow; "error": it has left the
        grammar (other parameters forbade all that the grammar allows), or has become too complex.
        """
        inner = self._inner
        inner.consume_tokens(list(tokens))
        if inner.is_error():
            reason = _line(inner.get_error())
            logger.warning("%s: structured output ended: %s", self.request_id, reason)
            return "error"
        if inner.is_stopped():
            return "stop"
        self.mask = None
        self._advanced.append(self)
        return None

    def write(self) -> None:
        """Compute the mask. In an error it allows the end of the sequence alone."""
        self.mask = _mask(self._inner, self._words)


class Grammar:
    """A compiled grammar, several times where that is quick: llguidance's tables have a lock."""

    def __init__(self, template: llguidance.LLMatcher, words: int, advanced: list[Matcher]) -> None:
        self.templates = [template]
        self._first = _mask(template, words)
        self._advanced = advanced
        self._turn = itertools.count()

    def matcher(self, tokens: Sequence[int] = (), request_id: str = "") -> Matcher:
        """For a sequence whose output so far is `tokens`; request_id: of its user's request."""
        template = self.templates[next(self._turn) % len(self.templates)]
        matcher = Matcher(template, self._first, self._advanced, request_id)
        if tokens:
            matcher.advance(*tokens)
        return matcher


class Grammars:
    """Compiles grammars and writes masks for one model. Its methods are for one thread; closing it drops what waits."""

    def __init__(self, tokenizer: Tokenizer | None, vocab_size: int, eos_token_ids: Collection[int]) -> None:
        self.tokenizer, self.vocab_size = tokenizer, vocab_size
        self._words = -(-vocab_size // 32)
        eos = [token for token in sorted(eos_token_ids) if token < vocab_size]
        if not eos and tokenizer is not None and tokenizer.eos_token_id is not None:
            eos = [tokenizer.eos_token_id]
        self.eos_token_ids = eos
        threads = max(1, (os.cpu_count() or 1) // 2)
        self._num_copies = min(MOST_COPIES, threads)
        self._compilers = ThreadPoolExecutor(min(4, threads), "grammar")
        self._writers = ThreadPoolExecutor(self._num_copies, "mask")
        self._vocabulary: Future[llguidance.LLTokenizer] | None = None
        self._cache: dict[StructuredOutputsParams, Future[Grammar]] = {}  # the latest used last
        self._advanced: list[Matcher] = []  # their masks are to be written
        self._jobs: list[Future] = []

    def check(self, params: StructuredOutputsParams) -> None:
        """Raises InvalidRequest where no grammar can be followed."""
        if not self._installed:
            raise InvalidRequest("structured_outputs", "llguidance is not installed", "`pip install llguidance`")
        if self.tokenizer is None:
            raise InvalidRequest("structured_outputs", "a grammar needs a tokenizer", "load one, or leave it out")
        if self.tokenizer.byte_decoder is None:
            raise InvalidRequest("structured_outputs", "this tokenizer's tokens do not spell bytes", "leave it out")
        if not self.eos_token_ids:
            raise InvalidRequest("structured_outputs", "the model has no token that ends a text", "name eos_token_id")

    @functools.cached_property
    def _installed(self) -> bool:
        return importlib.util.find_spec("llguidance") is not None

    def prepare(self) -> None:
        """Begin to read the vocabulary, which takes half a second of the interpreter for 150,000 tokens."""
        if self._vocabulary is None and self.tokenizer is not None:
            vocabulary = Vocabulary(self.tokenizer, self.vocab_size, self.eos_token_ids)
            self._vocabulary = self._compilers.submit(vocabulary.read)

    def compile(self, params: StructuredOutputsParams) -> Future[Grammar]:
        """Begin to compile, unless the cache has it. The future's exception is an InvalidRequest."""
        self.prepare()
        future = self._cache.pop(params, None)
        if future is None:
            future = self._compilers.submit(self._compile, params)
            self._jobs.append(future)
        self._cache[params] = future
        if len(self._cache) > CACHED:
            del self._cache[next(iter(self._cache))]
        return future

    def write_masks(self, patience: float = PATIENCE) -> None:
        """Begin to write the masks of all that have advanced, and wait a moment, so that their rows can be planned."""
        if self._jobs:
            self._jobs = [job for job in self._jobs if not job.done()]
        if not self._advanced:
            return
        groups: dict[int, list[Matcher]] = defaultdict(list)
        for matcher in self._advanced:
            groups[id(matcher.template)].append(matcher)
        self._advanced.clear()
        jobs = [self._writers.submit(_write, group) for group in groups.values()]
        self._jobs += wait(jobs, patience).not_done

    def rest(self) -> None:
        """Nothing can run: wait a while for a grammar or a mask, if any is on its way."""
        if self._jobs:
            wait(self._jobs, REST, FIRST_COMPLETED)

    def close(self) -> None:
        for pool in (self._compilers, self._writers):
            pool.shutdown(wait=False, cancel_futures=True)

    def _compile(self, params: StructuredOutputsParams) -> Grammar:
        try:
            return self._make(params)
        except BaseException as error:  # whatever it is (llguidance's panics are no Exceptions), it is this request's
            field = f"structured_outputs.{params.constraint}"
            raise InvalidRequest(field, _line(str(error)), "change it, or leave it out") from error

    def _make(self, params: StructuredOutputsParams) -> Grammar:
        """Raises ValueErrors with the reason."""
        assert self.tokenizer is not None
        assert self._vocabulary is not None
        vocabulary = self._vocabulary.result()
        start = time.perf_counter()
        special = {self.tokenizer.added_tokens[i]: i for i in self.tokenizer.special_ids if i < self.vocab_size}
        text = grammar_text(params, special)
        template = _template(vocabulary, text)
        if template.is_error():
            raise ValueError(template.get_error())
        grammar = Grammar(template, self._words, self._advanced)
        if template.is_error():  # found out by its first mask
            raise ValueError(template.get_error())
        if time.perf_counter() - start < QUICK and self._num_copies > 1:
            self._compilers.submit(self._copy, vocabulary, grammar, text)
        return grammar

    def _copy(self, vocabulary: llguidance.LLTokenizer, grammar: Grammar, text: str) -> None:
        while len(grammar.templates) < self._num_copies:
            template = _template(vocabulary, text)
            _mask(template, self._words)  # fills its tables
            grammar.templates.append(template)


def _template(vocabulary: llguidance.LLTokenizer, text: str) -> llguidance.LLMatcher:
    import llguidance

    limits = llguidance.LLParserLimits(verbose_errors=False)
    return llguidance.LLMatcher(vocabulary, text, log_level=0, limits=limits)


def _mask(matcher: llguidance.LLMatcher, words: int) -> np.ndarray:
    return np.frombuffer(matcher.compute_bitmask(), np.int32, words)  # there is room for a token more


def _write(matchers: Iterable[Matcher]) -> None:
    for matcher in matchers:
        matcher.write()


def _line(reason: str) -> str:
    """One line, short enough to be shown."""
    line = " ".join(reason.split())
    return line if len(line) <= 300 else line[:297] + "..."
