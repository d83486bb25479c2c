"""Prompts to measure with: random token ids, which need no download, and conversations in ShareGPT's format."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxengine.tokenizer import Tokenizer


@dataclass(frozen=True)
class Sample:
    prompt_token_ids: list[int]
    output_len: int  # tokens to generate


def random_prompts(random: np.random.Generator, num: int, input_len: int, vocab_size: int) -> list[list[int]]:
    """Every token at random: no two prompts share a page."""
    return random.integers(0, vocab_size, (num, input_len)).tolist()


def random_samples(
    num: int,
    *,
    input_len: int,
    output_len: int,
    vocab_size: int,
    special_ids: frozenset[int] = frozenset(),
    prefix_len: int = 0,
    range_ratio: float = 0.0,
    seed: int = 0,
) -> list[Sample]:
    """Prompts of prefix_len shared tokens, and every token after them at random: no two share a page behind the prefix.

    Lengths are uniform in [(1 - range_ratio) · len, (1 + range_ratio) · len].
    """
    rng = np.random.default_rng(seed)
    tokens = random_ids(rng, vocab_size, special_ids)
    prefix = tokens(prefix_len)

    def lengths(length: int) -> np.ndarray:
        low, high = int(np.floor(length * (1 - range_ratio))), int(np.ceil(length * (1 + range_ratio)))
        return rng.integers(max(low, 1), max(high, 1) + 1, num)

    inputs, outputs = lengths(input_len), lengths(output_len)
    return [Sample([*prefix, *tokens(size)], int(new)) for size, new in zip(inputs, outputs, strict=True)]


def random_ids(random: np.random.Generator, vocab_size: int, special_ids: frozenset[int]) -> Callable[[int], list[int]]:
    """Gives so many ids of the vocabulary, each drawn by itself, and none of the special ones."""
    allowed = np.array([token for token in range(vocab_size) if token not in special_ids])
    return lambda length: allowed[random.integers(0, len(allowed), length)].tolist()


def prefix_repetition_samples(
    num: int,
    *,
    prefix_len: int,
    suffix_len: int,
    num_prefixes: int,
    output_len: int,
    vocab_size: int,
    special_ids: frozenset[int] = frozenset(),
    seed: int = 0,
) -> list[Sample]:
    """num // num_prefixes prompts begin with each of the prefixes, and end at random; in random order.

    Raises ValueError for fewer prompts than prefixes.
    """
    if num < num_prefixes:
        raise ValueError(f"{num} prompts cannot begin with {num_prefixes} prefixes")
    rng = np.random.default_rng(seed)
    tokens = random_ids(rng, vocab_size, special_ids)
    samples: list[Sample] = []
    for _ in range(num_prefixes):
        prefix = tokens(prefix_len)
        samples += [Sample([*prefix, *tokens(suffix_len)], output_len) for _ in range(num // num_prefixes)]
    return [samples[place] for place in rng.permutation(len(samples))]


def sharegpt_samples(
    file: Path, num: int, tokenizer: Tokenizer, *, output_len: int | None = None, seed: int = 0
) -> list[Sample]:
    """First turns of conversations; the output is as long as the recorded answer, or output_len.

    As vLLM does, very short ones (under 4 tokens) and long ones (over 1024, or 2048 in all) are left out.
    """
    conversations = json.loads(file.read_text(encoding="utf-8"))
    turns = [c["conversations"] for c in conversations if len(c.get("conversations", ())) >= 2]
    random.Random(seed).shuffle(turns)
    samples: list[Sample] = []
    for turn in turns:
        if len(samples) == num:
            break
        prompt, answer = tokenizer.encode_batch([turn[0]["value"], turn[1]["value"]])
        new = output_len or len(answer)
        if min(len(prompt), new) >= 4 and len(prompt) <= 1024 and len(prompt) + new <= 2048:
            samples.append(Sample(prompt, new))
    if not samples:
        raise ValueError(f"{file}: no conversation of a usable length")
    return [samples[place % len(samples)] for place in range(num)]
