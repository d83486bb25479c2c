"""The CUDA kernel of rope_write: 16 bytes a lane, angles read once for several heads.

Called by rope_write/__init__.py; the kernel is pallas_kernels/cuda/rope_write.cu.
"""

import jax
import numpy as np
from jax import Array

from pallas_kernels.cuda import build


def supports(qkv: Array, kv_pages: Array, norms: tuple[Array, Array] | None, kv_scale: Array | None) -> bool:
    """Whether the kernel takes this product [T, K, G+2, D], pages [N, 2, K, page, D] and norms [D]."""
    D = qkv.shape[-1]
    pages = (kv_pages.dtype == qkv.dtype and kv_scale is None) or kv_pages.dtype.name in build.EXPONENTS
    same = all(norm.dtype == qkv.dtype for norm in norms or ())
    return qkv.dtype.name in build.ELEMENTS and pages and same and D % 16 == 0 and D <= 256


def rope_write(
    qkv: Array,
    cos: Array,
    sin: Array,
    kv_pages: Array,
    page: Array,
    offset: Array,
    norms: tuple[Array, Array] | None,
    eps: float,
    kv_scale: Array | None,
) -> tuple[Array, Array]:
    """See the package."""
    (T, K, places, D), page_size = qkv.shape, kv_pages.shape[3]
    target = build.target(
        "rope_write", ELEMENT=build.ELEMENTS[qkv.dtype.name], EXPONENT=build.EXPONENTS.get(kv_pages.dtype.name, 0),
        HEAD_DIM=D, GROUP=places - 2, PAGE=page_size, NORMED=int(norms is not None),
    )  # fmt: skip
    results = (
        jax.ShapeDtypeStruct((T, K * (places - 2), D), qkv.dtype),
        jax.ShapeDtypeStruct(kv_pages.shape, kv_pages.dtype),
    )
    optional = [*(norms or ()), *(() if kv_scale is None else (kv_scale,))]
    call = jax.ffi.ffi_call(target, results, input_output_aliases={3: 1})
    q, pages = call(qkv, cos, sin, kv_pages, page, offset, *optional, eps=np.float32(eps))
    return q, pages
