"""Sizes of the kernels, measured on an H200 (benchmarks/experts.py): bound by what each step has to read.

Qwen3-30B-A3B, one layer (E 2048, F 768, X 128, k 8; an expert is 9.44 MB in bfloat16), beside what an H200 does at most
(4.0 TB/s, 784 TFLOP/s), with experts chosen evenly:

| tokens | pairs | experts read | bytes | FLOP | at least |
|---|---|---|---|---|---|
| 1 | 8 | 8 | 75 MB | 75 M | 19 µs |
| 32 | 256 | 112 | 1.05 GB | 2.4 G | 0.26 ms |
| 256 | 2,048 | 128 | 1.21 GB + 12 MB of rows | 19 G | 0.31 ms |
| 8,192 | 65,536 | 128 | 1.21 GB + 0.7 GB of rows | 619 G | 0.79 ms |

So steps of up to some thousand tokens want their weights read once, by as many programs as keep enough bytes under way,
and only then does the shape of the product matter. Where a plain reduction read 3.65 TB/s, 32 tokens took 0.26 ms and
256 0.34; other tiles of tokens, and 3 or 5 stages in place of 4, were as slow or slower.
"""

import math
from dataclasses import dataclass

COUNTED = 4096  # so many pairs are put in order by counting: 4,096 of 128 experts are 17 million comparisons
PLAN_PLACES = 64  # pairs or tiles that a program of the plan makes


@dataclass(frozen=True)
class Blocks:
    """One program takes a tile of tokens and some outputs (with a gate twice as many rows of the weight), and in each
    step some inputs of them."""

    outputs: int
    inputs: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Sizes:
    """Of both products."""

    rows: int  # tokens of a tile, at most
    gate_up: Blocks
    down: Blocks


def sizes(pairs: int, experts: int, hidden: int, mlp: int, itemsize: int) -> Sizes:
    """hidden, mlp: features outside and inside of an expert."""
    rows = tile_rows(pairs, experts, itemsize)
    return Sizes(rows, product_blocks(rows, 2, hidden, itemsize), product_blocks(rows, 1, mlp, itemsize))


def tile_rows(pairs: int, experts: int, itemsize: int) -> int:
    """Tokens of a tile, at most: what an expert has and a spread more. Few experts then have a second tile, which would
    read their weights again, while more rows than that would only multiply nothing."""
    most = 128 if itemsize == 2 else 32
    mean = pairs / experts
    wanted = math.ceil(mean + math.sqrt(mean))
    return max(16, min(most, 1 << (wanted - 1).bit_length()))


def product_blocks(rows: int, parts: int, inputs: int, itemsize: int) -> Blocks:
    """rows: of a tile; parts: 2 for gate and up; inputs: of the weight.

    Up to 64 rows: bound by reading. 64 rows of the weight by 128 inputs are 16 KB a stage, 48 KB under way in each of
    two or three programs a processor. 128 rows: 128 by 256 outputs of gate and up, the largest tile whose sums fit the
    registers of eight warps; 128 by 128 of down, whose few inputs leave more of the time to what two programs a
    processor hide.
    """
    if itemsize == 4:  # products of float32 run without matrix units, from registers: a small tile does not spill
        return Blocks(outputs=16, inputs=16, warps=4, stages=1)
    if rows == 128:
        return Blocks(outputs=128, inputs=64, warps=8, stages=3)
    return Blocks(outputs=64 // parts, inputs=128 if inputs >= 128 else 64, warps=4, stages=4)
