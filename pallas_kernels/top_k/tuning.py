"""Sizes of the top-k / top-p search."""

# Distances below the largest logit at which the first pass looks: most thresholds lie within a few nats of it.
PROBES = (16.0, 6.0, 2.0)

BLOCK = 4096  # values a program reads at a time
NUM_WARPS = 8
