"""Block sizes of the kernel, chosen from the number of tokens."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Blocks:
    """One program takes one head of some tokens."""

    tokens: int
    warps: int


def blocks(tokens: int) -> Blocks:
    """Few tokens spread over as many programs as there are heads; many want wide loads."""
    return Blocks(tokens=1, warps=1) if tokens <= 64 else Blocks(tokens=16, warps=4)
