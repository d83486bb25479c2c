"""Sizes of the kernels.

A single step holds [DIMENSIONS, N] numbers of float32 in its registers: at N = 128 and four warps 32 a thread, and two
programs a head of 64 dimensions. A row of many tokens has one program for CHUNK_DIMENSIONS of each head, which takes
CHUNK tokens at once.
"""

DIMENSIONS = 32
NUM_WARPS = 4
CHUNK = 64
CHUNK_DIMENSIONS = 32
CHUNK_WARPS = 8
