"""Write this step's keys and values into their pages, in place when the pages are donated.

The one entry of the op: `cache_write`. Called by jaxengine/layers/attention.py inside shard_map, right before
`paged_attention`, whose page layout it shares. Runs reference.py on every backend: XLA makes one kernel of it.
"""

from jax import Array

from pallas_kernels.backend import Backend, resolve
from pallas_kernels.cache_write import reference


def cache_write(
    kv_pages: Array,  # [N, 2, K, page, D]
    k: Array,  # [T, K, D]
    v: Array,  # [T, K, D]
    page: Array,  # [T] int32; N or more: the token is dropped
    offset: Array,  # [T] int32 in [0, page size)
    *,
    backend: Backend | None = None,
) -> Array:  # [N, 2, K, page, D]
    """The pages with token t's key and value at (page[t], offset[t]). No two live tokens may share a place."""
    resolve(backend, ("reference",), "cache_write")
    return reference.write(kv_pages, k, v, page, offset)
