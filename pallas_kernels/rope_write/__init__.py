"""What lies between the fused qkv product and attention: normalise heads, rotate, write keys and values into pages.

The one entry of the op: `rope_write`. Called once a layer, inside shard_map (shapes are per shard), right before
`paged_attention`, whose page layout it shares. Runs reference.py, or a kernel that reads the product once: kernel.py or
cuda.py, which take the same time, or cpu.py.
"""

from jax import Array

from pallas_kernels.backend import Backend, resolve
from pallas_kernels.rope_write import cpu, cuda, kernel, reference


def rope_write(
    qkv: Array,  # [T, K, G + 2, D]: each kv head's query heads, then its key, then its value
    cos: Array,  # [T, D/2] float32
    sin: Array,  # [T, D/2] float32
    kv_pages: Array,  # [N, 2, K, page, D]
    page: Array,  # [T] int32; N or more: key and value are dropped
    offset: Array,  # [T] int32 in [0, page size)
    *,
    norms: tuple[Array, Array] | None = None,  # weights [D] of the heads' RMS norm: of queries and of keys
    eps: float = 0.0,  # of that norm
    kv_scale: Array | None = None,  # [2, K] float32
    backend: Backend | None = None,
) -> tuple[Array, Array]:
    """→ queries [T, H, D], and the pages with token t's key and value at (page[t], offset[t]); H = K·G.

    Queries and keys are normalised where `norms` are given, then their halves are rotated into one another by the
    token's angles; values are written as they are. Each step rounds to qkv's dtype. What is stored is divided by
    `kv_scale` (keys', values') where it is given, and bounded to what pages of eight bits can hold. The pages are
    written in place when they are donated. No two live tokens may share a place.
    """
    native: tuple[Backend, ...] = ("cpu",) if cpu.suits(qkv, kv_pages, kv_scale) else ()
    compiled: tuple[Backend, ...] = ("cuda",) if cuda.supports(qkv, kv_pages, norms, kv_scale) else ()
    arguments = qkv, cos, sin, kv_pages, page, offset, norms, eps
    scaled = *arguments, kv_scale
    match resolve(backend, (*native, "pallas", *compiled, "reference"), "rope_write"):
        case "cpu":
            return cpu.rope_write(*arguments)
        case "pallas":
            return kernel.rope_write(*scaled)
        case "cuda":
            return cuda.rope_write(*scaled)
        case _:
            return reference.rope_write(*scaled)
