"""Sizes of the kernel of single steps. A program holds [DIMENSIONS, N] numbers of float32 in its registers: at N = 128
and four warps 32 a thread, and two programs a head of 64 dimensions."""

DIMENSIONS = 32
NUM_WARPS = 4
