"""Top-k, top-p and min-p: the smallest logit a row keeps, found without sorting.

Used by samplers. `thresholds` is one small number a row, so that the mask itself fuses into whatever reads the logits
next; `keep_top` applies it. `reference.py` is the specification and the CPU implementation, `threshold.py` the Pallas
kernel, `cuda.py` the CUDA one.
"""

import jax.numpy as jnp
from jax import Array

from pallas_kernels import backend as backends
from pallas_kernels.backend import Backend
from pallas_kernels.top_k import cuda, reference, threshold
from pallas_kernels.top_k.tuning import MANY_ROWS

__all__ = ["keep_top", "thresholds"]


def thresholds(
    logits: Array,  # [S, V] float32, may hold -inf, no nan; denormals count as 0
    temperature: Array,  # [S] float32 > 0; of rows with everything off anything
    top_k: Array,  # [S] int32, 0 = off
    top_p: Array,  # [S] float32 in (0, 1], 1 = off
    min_p: Array,  # [S] float32 in [0, 1], 0 = off
    *,
    backend: Backend | None = None,
) -> Array:
    """[S] float32: row s keeps the logits >= thresholds[s]; -inf where everything is off.

    Probabilities are softmax(logits / temperature). min_p keeps the tokens with at least min_p times the largest one.
    Of those top_k keeps the k largest, and of those, their probabilities made to sum to one, top_p keeps the fewest,
    largest first, whose sum reaches p, at least one. Equal logits stay or go together: where the cut would fall
    between equal values, all of them are kept. Exact, apart from the rounding of float32 sums of probabilities.
    """
    fastest: tuple[Backend, ...] = ("pallas", "cuda") if logits.shape[0] > MANY_ROWS else ("cuda", "pallas")
    offered = tuple(name for name in fastest if name != "cuda" or cuda.supports(logits))
    temperature = jnp.where(temperature > 0, temperature, 1.0)
    chosen = backends.resolve(backend, (*offered, "reference"), "top_k")
    search = {"cuda": cuda.thresholds, "pallas": threshold.thresholds}.get(chosen, reference.thresholds)
    return search(logits, temperature, top_k, top_p, min_p)


def keep_top(logits: Array, top_k: Array, top_p: Array, min_p: Array, *, backend: Backend | None = None) -> Array:
    """[S, V] the logits with -inf outside of what `thresholds` keeps at temperature 1."""
    ones = jnp.ones_like(top_p)
    keep = thresholds(logits, ones, top_k, top_p, min_p, backend=backend)
    return jnp.where(logits >= keep[:, None], logits, -jnp.inf)
