"""Block sizes of the kernels, chosen from static shapes.

They are those with which nothing spills and loads overlap when compiled for an H200; benchmarks/latent_attention.py
times them with others beside them.
"""

from dataclasses import dataclass

from pallas_kernels.paged_attention.tuning import DecodeBlocks, PrefillBlocks

FEW_TOKENS = 64  # so few tokens are attended by the decode kernel, which splits long contexts over the device
LANES = 32  # tokens x heads that one program attends at most: with 64 their sums of latents do not fit its registers


@dataclass(frozen=True)
class WriteBlocks:
    """One program of the write takes some tokens' latents, or rotates some query heads."""

    tokens: int
    heads: int  # tokens x query heads
    warps: int


def has_few_tokens(tokens: int) -> bool:
    return tokens <= FEW_TOKENS


def tile_heads(heads: int) -> int:
    """Query heads of one program, which read each latent once: all of them, or an even share of at most LANES."""
    return -(-heads // -(-heads // LANES))


def decode_blocks(itemsize: int, tile_tokens: int, heads: int) -> DecodeBlocks:
    """Latents of 576: two stages of 64 keys in bfloat16, and 32 queries, take 188 KB of an SM's shared memory. Sums of
    16 queries fit the registers of 4 warps: 256 rows of 1,024 latents take 173 µs on an H200, and 224 with 8."""
    warps = 4 if tile_tokens * tile_heads(heads) <= 16 else 8
    blocks = {4: (16, 4, 1), 2: (64, warps, 2), 1: (32, 8, 2)}  # keys, warps, stages
    keys, warps, stages = blocks[itemsize]
    return DecodeBlocks(keys=keys, chunk=128, programs=132, warps=warps, stages=stages)


def prefill_blocks(itemsize: int) -> PrefillBlocks:
    """As for decoding; products of float32 run without matrix units, from registers."""
    if itemsize == 4:
        return PrefillBlocks(rows=16, keys=16, warps=4, stages=1)
    return PrefillBlocks(rows=LANES, keys=64 if itemsize == 2 else 32, warps=8, stages=2)


def new_tokens_blocks(head_dim: int, itemsize: int) -> PrefillBlocks:
    """head_dim: the larger one of keys and values. Sums of 128 rows and 128 columns are 64 registers of each thread."""
    if itemsize == 4:
        return PrefillBlocks(rows=16, keys=16, warps=4, stages=1)
    return PrefillBlocks(rows=128 if head_dim <= 128 else 64, keys=64, warps=8, stages=2)


def write_blocks(tokens: int) -> WriteBlocks:
    """Few tokens spread over as many programs as they can; many want wide loads."""
    return WriteBlocks(1, 16, 1) if tokens <= 64 else WriteBlocks(4, 64, 4)
