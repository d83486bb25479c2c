"""Sizes of the kernel of single steps. A program holds [K, VALUES] numbers of float32 in its registers: at K = 128 and
four warps 32 a thread, and 128 programs a row of Qwen3-Next's 32 heads, about as many as an H200 has processors."""

VALUES = 32
NUM_WARPS = 4
