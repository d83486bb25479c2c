"""The static shapes of a step: every plan is padded to the smallest bucket that holds it.

The runner compiles one program a bucket and picks with `fit`; plain arithmetic, no jax. More shapes mean less padding
and a longer start.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

FIRST_ROWS = (1, 8, 32)  # then doubling: as many rows cost the same while the weights are what a step reads
FIRST_TOKENS = (64, 256)  # then doubling


@dataclass(frozen=True, slots=True)
class Bucket:
    """T and S of a program. decode_only: T == S and row s owns token s; otherwise rows have any number of tokens."""

    tokens: int
    rows: int
    decode_only: bool


class Buckets:
    """Every shape that a step can have; the largest ones are exactly the limits.

    `decode` goes by rows (1, 8, 32, 64, … max_num_seqs), `mixed` by tokens (64, 256, 512, 1024, … up to
    max_num_batched_tokens; the scheduler cuts a prompt rather than pad a step by much). `coarse` are some of them,
    about eight times apart, for programs that are rarely needed. With few=True all mixed buckets are so far apart: a
    quick start on CPUs.
    """

    def __init__(self, max_num_seqs: int, max_num_batched_tokens: int, *, few: bool = False) -> None:
        if not 1 <= max_num_seqs <= max_num_batched_tokens:
            raise ValueError(
                f"max_num_batched_tokens: {max_num_batched_tokens} leaves some of max_num_seqs={max_num_seqs} "
                f"sequences without a token; use at least {max_num_seqs}"
            )
        rows = _ladder(FIRST_ROWS, max_num_seqs)
        tokens = _ladder(FIRST_TOKENS, max_num_batched_tokens)
        if few:
            tokens = _sparse(tokens, 8)
        coarse_rows, coarse_tokens = _sparse(rows[2:] or rows[-1:], 8), _sparse(tokens, 8)
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


def _ladder(first: tuple[int, ...], limit: int) -> list[int]:
    """The first sizes, then doubling to the limit; none just below the limit."""
    sizes = [size for size in first if size < limit]
    size = first[-1] * 2
    while size < limit:
        sizes.append(size)
        size *= 2
    while len(sizes) > 1 and sizes[-1] * 8 > limit * 7:
        sizes.pop()
    return [*sizes, limit]


def _sparse(sizes: list[int], factor: int) -> list[int]:
    """The first and the last size, and between them, from above, each that is 1/factor of the next or less and not
    much nearer to the first than that."""
    first, kept = sizes[0], [sizes[-1]]
    for size in reversed(sizes):
        if first * factor <= size * 2 and size * factor <= kept[-1]:
            kept.append(size)
    return [first, *kept[::-1]] if first < kept[-1] else kept[::-1]
