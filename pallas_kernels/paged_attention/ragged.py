"""Lists of unlike lengths laid end to end, as the plans of all attention kernels are: tiles of rows, chunks of tiles.

Used by the planning parts of decode.py, prefill.py, cuda.py and cuda_prefill.py, which run in XLA's graph.
"""

import jax.numpy as jnp
from jax import Array


def owners(counts: Array, places: int) -> tuple[Array, Array]:
    """Whose a place is if owner i has counts[i] in a row, len(counts) past the last one's, and its number with its
    owner; both [places] int32."""
    last = jnp.cumsum(counts, dtype=jnp.int32)
    place = jnp.arange(places, dtype=jnp.int32)
    owner = (last <= place[:, None]).sum(1, dtype=jnp.int32)
    return owner, place - (last - counts).at[owner].get(mode="clip")
