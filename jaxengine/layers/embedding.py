"""Token embedding and output logits, both split over the vocabulary. Called by the models at both ends of a step."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxengine.layers.linear import project
from jaxengine.layers.norm import FusedNorm
from jaxengine.sharding import TP, tp_size


def embed(tokens: Array, table: Array, mesh: Mesh) -> Array:
    """tokens: [T] int32, table: [V', E] split over V' → [T, E] on every device. One all-reduce when tp > 1."""
    if tp_size(mesh) == 1:
        return jnp.take(table, tokens, axis=0, mode="clip")

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(P(), P(TP, None)), out_specs=P())
    def lookup(tokens: Array, part: Array) -> Array:
        local = tokens - lax.axis_index(TP) * part.shape[0]
        mine = (local >= 0) & (local < part.shape[0])
        rows = jnp.take(part, local, axis=0, mode="clip")
        return lax.psum(jnp.where(mine[:, None], rows, 0), TP)

    return lookup(tokens, table)


def logits(
    hidden: Array,  # [S, E]
    norm: FusedNorm | None,  # an RMS norm of hidden
    head: Array,  # [V', E], split over V'
    bias: Array | None,  # [V']
    vocab_size: int,
    mesh: Mesh,
) -> Array:
    """→ [S, V] float32 on every device, without the padding of V'."""

    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(P(), P(), P(TP, None), P(TP)), out_specs=P(), check_vma=False
    )
    def score(hidden: Array, norm: Array | None, part: Array, bias: Array | None) -> Array:
        # GSPMD would gather the table, not the scores
        scores = project("se,ve->sv", hidden, part, bias, dtype=jnp.float32, norm=None if norm is None else (norm, eps))
        return scores if tp_size(mesh) == 1 else lax.all_gather(scores, TP, axis=1, tiled=True)

    weight, eps = (None, 0.0) if norm is None else norm
    return score(hidden, weight, head, bias)[:, :vocab_size]
