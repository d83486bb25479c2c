"""Attention on a CPU: binding of the handler `paged_attention` in pallas_kernels/cpu. Called by the package."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pallas_kernels.cpu import build
from pallas_kernels.paged_attention.scoring import Scoring


def suits(q: Array, kv_pages: Array, kv_scale: Array | None) -> bool:
    """Whether the kernel can take these arguments; else the reference does."""
    return kv_scale is None and q.shape[-1] % 8 == 0 and q.dtype in build.DTYPES and kv_pages.dtype in build.DTYPES


def attend(
    q: Array,  # [T, H, D]
    kv_pages: Array,  # [N, 2, K, page, D]
    page_table: Array,  # [S, P]
    query_start: Array,  # [S+1]
    context_len: Array,  # [S]
    *,
    decode_only: bool,
    sinks: Array | None,  # [H]
    scoring: Scoring,
) -> Array:  # [T, H, D]
    """The public function's contract, see paged_attention/__init__.py, where `suits` says so."""
    T, H, D = q.shape
    K = kv_pages.shape[2]
    grouped = q.reshape(T, K, H // K, D)
    more = [] if sinks is None else [sinks.astype(jnp.float32)]
    call = jax.ffi.ffi_call(build.target("paged_attention"), jax.ShapeDtypeStruct(grouped.shape, q.dtype))
    return call(
        grouped,
        kv_pages,
        page_table,
        query_start,
        context_len,
        *more,
        decode_only=decode_only,
        scale=np.float32(scoring.scale),
        softcap=np.float32(scoring.softcap or 0.0),  # 0: none
        window=np.int64(scoring.window or 0),
    ).reshape(T, H, D)
