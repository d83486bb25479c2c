"""Sizes of the kernel, measured on an H200 with 256 rows of 128,256 logits: 140 µs with noise, 50 µs greedy."""

BLOCK = 1024  # values of each half that a program reads at a time
STRETCHES = 32  # programs of a row
NUM_WARPS = 4
