"""Block sizes of the kernels, and which of them is the faster one, chosen from static shapes."""

from dataclasses import dataclass

FEW_TOKENS = 64  # so few tokens are attended by the decode kernel, which splits long contexts over the device
FEW_LANES = 64  # tokens × heads of a kv head that it attends at once then
BESIDE_PROMPTS = 1024  # programs of the Pallas decode kernel where often few rows decode: more are long in leaving
MERGES = 2048  # programs that put chunks together, mostly none
CUDA_TILES = range(256, 513)
"""Rows times kv heads for which the CUDA decode kernel is used. H200, 8 kv heads, head_dim 128, contexts of 1,024: CUDA
and Pallas take 44 and 49 µs at 32 rows, 157 and 161 at 128, 297 and 287 at 256; since then Pallas puts chunks together
in less time, most of all at 128 rows. Of fewer rows only long ones are known to gain: one of 32,768 takes 44 and 53 µs.
"""


@dataclass(frozen=True)
class DecodeBlocks:
    """One program attends one row's chunk of keys for all query heads of one kv head."""

    keys: int  # keys of one loop iteration
    chunk: int  # smallest number of keys of a row that is worth a program of its own
    programs: int  # programs to aim for beyond one a (row, kv head): chunks grow until they are no more
    warps: int
    stages: int


@dataclass(frozen=True)
class ChunkBlocks:
    """A thread block of the CUDA decode kernel attends one tile's chunk of keys for all query heads of one kv head."""

    warps: int  # which take 16 keys in turn
    stages: int  # of those that are under way in each warp
    per_sm: int  # thread blocks that an SM runs at once
    least: int  # keys that are worth a thread block


@dataclass(frozen=True)
class PrefillBlocks:
    """One program attends a tile of query rows (tokens x the heads of one kv head)."""

    rows: int
    keys: int
    warps: int
    stages: int


def decode_blocks(head_dim: int, itemsize: int) -> DecodeBlocks:
    """H200, head_dim 128, bfloat16: 64 to 128 keys, 4 to 8 warps and 2 or 3 stages all read about the same, 0.97 of
    what a plain reduction reads at 256 rows of 1,024 keys."""
    return DecodeBlocks(keys=_keys(head_dim, itemsize), chunk=128, programs=512, warps=4, stages=3)


def chunk_blocks(head_dim: int, itemsize: int) -> ChunkBlocks:
    """Measured on an H200 with head_dim 128 and bfloat16."""
    stages = 3 if head_dim <= 128 else 2
    return ChunkBlocks(warps=4, stages=stages * 2 // itemsize, per_sm=2 if head_dim <= 128 else 1, least=64)


def prefill_blocks(head_dim: int, itemsize: int) -> PrefillBlocks:
    """H200, head_dim 128, bfloat16: 128 rows and 64 keys keep accumulators in the registers of 8 warps without
    spills."""
    if itemsize == 4:  # products of float32 run without matrix units, from registers: a small tile does not spill
        return PrefillBlocks(rows=16, keys=16, warps=4, stages=1)
    return PrefillBlocks(rows=128 if head_dim <= 128 else 64, keys=_keys(head_dim, itemsize), warps=8, stages=3)


def _keys(head_dim: int, itemsize: int) -> int:
    """Keys whose tile takes 16 KB of shared memory: keys and values of three stages fit an SM twice."""
    keys = 16384 // (head_dim * itemsize)
    return max(16, min(64, 1 << (keys.bit_length() - 1)))
