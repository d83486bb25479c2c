"""The op on a CPU: binding of the handler `rope_write` in pallas_kernels/cpu. Called by the package."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pallas_kernels.cpu import build


def suits(qkv: Array, kv_pages: Array, kv_scale: Array | None) -> bool:
    """Whether the kernel can take these arguments; else the reference does."""
    return kv_scale is None and qkv.dtype in build.DTYPES and kv_pages.dtype in build.DTYPES


def rope_write(
    qkv: Array,  # [T, K, G + 2, D]
    cos: Array,  # [T, D/2]
    sin: Array,
    kv_pages: Array,  # [N, 2, K, page, D]
    page: Array,  # [T]
    offset: Array,  # [T]
    norms: tuple[Array, Array] | None,  # [D] each
    eps: float,
) -> tuple[Array, Array]:
    """See the package. The pages are written in place where XLA can let them go."""
    T, K, _, D = qkv.shape
    queries = jax.ShapeDtypeStruct((T, K, qkv.shape[2] - 2, D), qkv.dtype)
    pages = jax.ShapeDtypeStruct(kv_pages.shape, kv_pages.dtype)
    more = [] if norms is None else [weight.astype(jnp.float32) for weight in norms]
    call = jax.ffi.ffi_call(build.target("rope_write"), (queries, pages), input_output_aliases={5: 1})
    q, written = call(qkv, cos, sin, page, offset, kv_pages, *more, eps=np.float32(eps))
    return q.reshape(T, -1, D), written
