"""Sizes of the kernel, not yet measured."""

WARPS = 1  # a token's logits, up to some hundreds, are a few registers of each thread
