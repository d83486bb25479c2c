"""Sizes of the Pallas kernel for one token, measured on an H200.

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
