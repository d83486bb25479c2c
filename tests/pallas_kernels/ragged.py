"""Random ragged batches and the float64 numpy specification of paged attention, for the tests of the kernels."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array

from pallas_kernels.paged_attention import pages_shape


@dataclass(frozen=True)
class Batch:
    """One step's arguments of paged_attention, as numpy arrays; kv_pages hold NaN wherever no row has a key."""

    q: np.ndarray  # [T, H, D]
    kv_pages: np.ndarray  # [N, 2, K, page, D]
    page_table: np.ndarray  # [S, P]
    query_start: np.ndarray  # [S+1]
    context_len: np.ndarray  # [S]
    num_decode: int

    def arrays(self, dtype: jnp.dtype = jnp.float32) -> tuple[Array, ...]:
        """The arguments as jax arrays, queries and pages in `dtype`."""
        ints = (self.page_table, self.query_start, self.context_len, np.int32(self.num_decode))
        return (jnp.asarray(self.q, dtype), jnp.asarray(self.kv_pages, dtype), *map(jnp.asarray, ints))


def make_batch(
    query_lens: list[int],
    context_lens: list[int],
    *,
    tokens: int | None = None,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 64,
    page: int = 16,
    capacity: int | None = None,
    seed: int = 0,
) -> Batch:
    """Rows of `query_lens` new tokens that end contexts of `context_lens` keys; `tokens` pads T, `capacity` (keys)
    widens P."""
    rng = np.random.default_rng(seed)
    rows = len(query_lens)
    start = np.zeros(rows + 1, np.int32)
    start[1:] = np.cumsum(query_lens)
    width = -(-max([1, capacity or 0, *context_lens]) // page)
    table = rng.permutation(rows * width).astype(np.int32).reshape(rows, width)
    kv = np.full(pages_shape(rows * width, page, kv_heads, head_dim), np.nan, np.float32)
    for s, n in enumerate(context_lens):
        at = np.arange(n)
        kv[table[s, at // page], :, :, at % page] = rng.standard_normal((n, 2, kv_heads, head_dim))
    q = rng.standard_normal((tokens or max(1, start[-1]), heads, head_dim)).astype(np.float32)
    num_decode = next((i for i, n in enumerate(query_lens) if n != 1), rows)
    return Batch(q, kv, table, start, np.asarray(context_lens, np.int32), num_decode)


def specification(
    batch: Batch,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    decode_only: bool = False,
    sinks: np.ndarray | None = None,  # [H]
    kv_scale: np.ndarray | None = None,  # [2, K]
) -> np.ndarray:
    """Attention row by row in float64, as the textbook has it."""
    out = np.zeros(batch.q.shape)
    group = batch.q.shape[1] // batch.kv_pages.shape[2]
    page = batch.kv_pages.shape[3]
    for s, n in enumerate(batch.context_len):
        first, last = (s, s + 1) if decode_only else (int(batch.query_start[s]), int(batch.query_start[s + 1]))
        if first == last or n == 0:
            continue
        at = np.arange(n)
        kv = batch.kv_pages[batch.page_table[s, at // page], :, :, at % page].astype(np.float64)  # [n, 2, K, D]
        if kv_scale is not None:
            kv *= kv_scale[:, :, None]
        k, v = (np.repeat(kv[:, i], group, axis=1) for i in range(2))
        scores = np.einsum("qhd,nhd->hqn", batch.q[first:last].astype(np.float64), k) * scale
        if softcap is not None:
            scores = softcap * np.tanh(scores / softcap)
        position = n - (last - first) + np.arange(last - first)[:, None]
        visible = at <= position
        if window is not None:
            visible &= at > position - window
        scores = np.where(visible, scores, -np.inf)
        if sinks is not None:  # a key like the others, with a value of zero
            scores = np.concatenate([scores, np.broadcast_to(sinks[:, None, None], (*scores.shape[:2], 1))], axis=-1)
            v = np.concatenate([v, np.zeros((1, *v.shape[1:]))])
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        out[first:last] = np.einsum("hqn,nhd->qhd", weights / weights.sum(-1, keepdims=True), v)
    return out
