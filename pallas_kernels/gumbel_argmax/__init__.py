"""Sampling from softmax(logits / temperature) as one pass over the logits: argmax(logits / temperature + Gumbel noise).

Used by samplers. The noise is a pure function of a row's seed, its position and the token id (see reference.py), so
that a row draws the same token in any batch, at any place in it, and under any sharding.
"""

from jax import Array

from pallas_kernels import backend as backends
from pallas_kernels.backend import Backend
from pallas_kernels.gumbel_argmax import cpu, cuda, kernel, reference

__all__ = ["gumbel_argmax"]


def gumbel_argmax(
    logits: Array,  # [S, V] float32, may hold -inf, no nan
    temperature: Array,  # [S] float32, 0 = greedy: no noise
    keep: Array | None,  # [S] float32: logits below are out; None keeps all
    seed: Array,  # [S] int32 or uint32
    position: Array,  # [S] int32 or uint32
    *,
    backend: Backend | None = None,
) -> Array:
    """[S] int32: a token drawn from each row, the largest logit of greedy rows; any where all are -inf."""
    offered: tuple[Backend, ...] = ("cpu", "cuda", "pallas", "reference")
    chosen = backends.resolve(backend, offered, "gumbel_argmax")
    kernels = {"cpu": cpu.gumbel_argmax, "cuda": cuda.gumbel_argmax, "pallas": kernel.gumbel_argmax}
    draw = kernels.get(chosen, reference.gumbel_argmax)
    return draw(logits, temperature, keep, seed, position)
