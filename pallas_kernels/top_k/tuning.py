"""Sizes of the kernel."""

BLOCK = 4096  # lanes: values a program reads at a time
DEPTH = 4  # largest values that each lane keeps; the largest thousand or so of a row are then all kept
NUM_WARPS = 16
