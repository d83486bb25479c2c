"""Sizes of the kernel of single steps: two channels a thread, 32 programs a row of Qwen3-Next's 8192 channels."""

CHANNELS = 256
NUM_WARPS = 4
