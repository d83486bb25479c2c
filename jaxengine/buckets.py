"""The static shapes of a step: every plan is padded to the smallest bucket that holds it.

The runner compiles one program a bucket and picks with `fit`; plain arithmetic, no jax. More shapes mean less padding
and a longer start.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

SMALLEST_MIXED = 16  # tokens: below it a step costs the same
FINE_FROM = 1024  # tokens from which a power of two is too big a step: 1.5 times it is there too


@dataclass(frozen=True, slots=True)
class Bucket:
    """T and S of a program. decode_only: T == S and row s owns token s; otherwise rows have any number of tokens."""

    tokens: int
    rows: int
    decode_only: bool


class Buckets:
    """Every shape that a step can have; the largest ones are exactly the limits.

    `decode` goes by rows (1, 2, 4, … max_num_seqs), `mixed` by tokens (16, 32, … 1024, 1536, 2048, …
    max_num_batched_tokens). `coarse` are those of them that are about four times apart, for programs that are rarely
    needed. With few=True all buckets are: a quick start for tests and CPUs.
    """

    def __init__(self, max_num_seqs: int, max_num_batched_tokens: int, *, few: bool = False) -> None:
        if not 1 <= max_num_seqs <= max_num_batched_tokens:
            raise ValueError(
                f"max_num_batched_tokens: {max_num_batched_tokens} leaves some of max_num_seqs={max_num_seqs} "
                f"sequences without a token; use at least {max_num_seqs}"
            )
        rows = _ladder(1, max_num_seqs)
        tokens = _ladder(SMALLEST_MIXED, max_num_batched_tokens, fine_from=FINE_FROM)
        coarse_rows, coarse_tokens = _sparse(rows), _sparse(tokens)
        if few:
            rows, tokens = coarse_rows, coarse_tokens
        self.decode = tuple(Bucket(n, n, True) for n in rows)
        self.mixed = tuple(Bucket(n, min(n, max_num_seqs), False) for n in tokens)
        self.all = self.decode + self.mixed
        self.coarse = tuple(b for b in self.all if b.tokens in (coarse_rows if b.decode_only else coarse_tokens))
        self._sizes = {
            (decode_only, coarse): [b for b in buckets if b.decode_only == decode_only]
            for coarse, buckets in ((False, self.all), (True, self.coarse))
            for decode_only in (False, True)
        }

    def fit(self, num_tokens: int, num_rows: int, decode_only: bool, *, coarse: bool = False) -> Bucket:
        """The smallest bucket for a plan of num_tokens in num_rows (one each when decode_only)."""
        buckets = self._sizes[decode_only, coarse]
        index = bisect_left(buckets, num_tokens, key=lambda bucket: bucket.tokens)
        if index == len(buckets) or num_rows > buckets[index].rows:
            raise ValueError(f"{num_tokens} tokens in {num_rows} rows are more than the largest bucket, {buckets[-1]}")
        return buckets[index]


def _ladder(start: int, limit: int, *, fine_from: int | None = None) -> list[int]:
    """start, 2·start, 4·start, … limit; from fine_from on also 1.5 times each. No step just below the limit."""
    sizes = []
    size = start
    while size < limit:
        sizes.append(size)
        if fine_from is not None and size >= fine_from and size * 3 // 2 < limit:
            sizes.append(size * 3 // 2)
        size *= 2
    while len(sizes) > 1 and sizes[-1] * 8 > limit * 7:
        sizes.pop()
    return [*sizes, limit]


def _sparse(sizes: list[int]) -> list[int]:
    """The last size, and going down each that is at most a quarter of the one above; the first too, unless close."""
    kept = [sizes[-1]]
    for size in reversed(sizes):
        if size * 4 <= kept[-1]:
            kept.append(size)
    if sizes[0] * 2 < kept[-1]:
        kept.append(sizes[0])
    return kept[::-1]
