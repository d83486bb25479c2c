"""Sizes of the kernels, measured on an H200.

Of one token in Pallas:
Qwen3-0.6B, whole decode step of one row at a context of 1,024: 0.94 ms, 1.02 with XLA's products. Llama-3.1-8B: 4.55 ms
and 4.43; XLA's kernels read its weights of 34 to 235 MB at the full rate, which is worth more than fewer kernels.
"""

from dataclasses import dataclass

LARGEST = 8 << 20  # values of a weight with which this kernel is faster than XLA's
UNROLLED = 4  # so many steps are written out: their loads are in flight together


@dataclass(frozen=True)
class RowBlocks:
    """One program takes some outputs, and in each step some inputs of them."""

    outputs: int
    inputs: int
    warps: int


def row_blocks(inputs: int) -> RowBlocks:
    """Short rows are read at once; of long ones more at a time."""
    if inputs < 4096:
        return RowBlocks(outputs=4, inputs=1024, warps=4)
    return RowBlocks(outputs=8, inputs=512 if inputs < 8192 else 1024, warps=4)


SHARED = 226 << 10  # bytes of shared memory that thread blocks of an SM have
SHORT = 1024  # so few inputs are under way all at once


@dataclass(frozen=True)
class WeightTiles:
    """A thread block of the CUDA kernel takes 64 · tall rows of a weight."""

    tall: int  # warpgroups
    panels: int  # of 64 inputs: one stage
    stages: int  # that are under way
    split: int  # thread blocks that share out the inputs of the same rows
    per_sm: int  # thread blocks that an SM runs at once


def weight_tiles(tokens: int, rows: int, inputs: int, processors: int) -> WeightTiles:
    """About as many thread blocks as processors, or so many that each has two: both read as fast as memory is.

    H200, 32 tokens: 3.7 TB/s of Llama-3.1-8B's gate and up, 3.0 to 3.9 of its others where they start early. Clusters
    of four leave some processors without one, which small weights do not need. What is said of short rows made a step
    of Qwen3-0.6B 3% faster.
    """
    tiles, short = -(-rows // 64), inputs <= SHORT
    if tiles > processors:
        tall, panels, split, per_sm = 2, 1, 1, 2
    elif 2 * tiles > processors:
        tall, panels, split, per_sm = (1, 2, 2, 2) if short else (2, 2, 2, 1)
    elif 6 * tiles > processors:
        tall, panels, split, per_sm = 2 if short else 1, 2, 2, 1
    else:
        tall, panels, split, per_sm = 1, 2, 4, 1
    panels = panels if inputs % 128 == 0 else 1
    while split * panels * 64 > inputs:
        split //= 2
    stage = (64 * tall + tokens) * 128 * panels
    steps = -(-inputs // (64 * panels * split))
    gains, sums = 2 * 64 * panels * steps, 4 * tokens * (64 * tall + 4) if split > 1 else 0
    stages = min(steps, (SHARED // per_sm - 2048 - gains - sums) // stage)
    return WeightTiles(tall, panels, stages, split, per_sm)


GATED_HALVES = (128, 112, 96)  # gates, and as many ups, of a tile of the CUDA kernel that has both
TILE_ENDS = 8  # gates that a tile's beginning and end are worth
GATED_FROM = 65  # tokens: XLA's product, and then the gate, are the faster way for fewer
GATED_ROUNDS = 4  # of tiles, and for more


def gated_half(tokens: int, outputs: int, processors: int) -> int:
    """The tiles with which the thread blocks, one a processor, are done first: all wait for those with most tiles."""
    return min(GATED_HALVES, key=lambda half: _rounds(tokens, outputs, half, processors) * (half + TILE_ENDS))


def pays_to_gate(tokens: int, outputs: int, processors: int) -> bool:
    """Whether the kernel that has product and gate in one is faster than XLA's two.

    H200, µs of both, and in one: Llama-3.1-8B at 128 tokens 69.7, 66.0; 256: 109, 98; 512: 194, 184; 1,024: 378, 380;
    2,048: 737, 756; 8,192: 2,926, 2,938, where the product alone runs at the power limit and cuBLAS needs less for it.
    Qwen3-0.6B at 1,024 tokens: 27.4, 23.1.
    """
    half = gated_half(tokens, outputs, processors)
    return tokens >= GATED_FROM and _rounds(tokens, outputs, half, processors) <= GATED_ROUNDS


def _rounds(tokens: int, outputs: int, half: int, processors: int) -> int:
    return -(-(-(-tokens // 128) * -(-outputs // half)) // processors)
