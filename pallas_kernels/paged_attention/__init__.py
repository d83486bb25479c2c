"""Attention of this step's queries over keys and values that live in pages.

The one entry of the op: `paged_attention`, with the layout of a page beside it. Called by
jaxengine/layers/attention.py inside shard_map (shapes are per shard). Runs reference.py, or decode.py or cuda.py for
rows of few tokens and prefill.py or cuda_prefill.py for the others, as pallas_kernels/backend.py says.

Layout: one array a layer, [N, 2, K, page, D]: keys at 0, values at 1, and each (page, kv head) one contiguous [page,
D] tile.
"""

from typing import Any

from jax import Array

from pallas_kernels.backend import Backend, interpret, resolve
from pallas_kernels.paged_attention import cpu, cuda, cuda_prefill, decode, prefill, reference, tuning
from pallas_kernels.paged_attention.scoring import Scoring
from pallas_kernels.paged_attention.tuning import decode_blocks, prefill_blocks

KV_HEADS_AXIS = 2
"""Axis of the pages array that tensor parallelism shards."""


def pages_shape(num_pages: int, page_size: int, kv_heads: int, head_dim: int) -> tuple[int, ...]:
    """Shape of one layer's pages, keys and values together."""
    return (num_pages, 2, kv_heads, page_size, head_dim)


def paged_attention(
    q: Array,  # [T, H, D]
    kv_pages: Array,  # [N, 2, K, page, D], already containing this step's keys and values
    page_table: Array,  # [S, P] int32; entries past the context are arbitrary but in range [0, N)
    query_start: Array,  # [S+1] int32: row s owns tokens query_start[s]:query_start[s+1]
    context_len: Array,  # [S] int32: keys visible to the row's last token, itself included; 0 for dead rows
    num_decode: Array,  # [] int32: rows [0, num_decode) have exactly one token each, token s belongs to row s
    *,
    decode_only: bool,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Array | None = None,  # [H] float32
    kv_scale: Array | None = None,  # [2, K] float32
    backend: Backend | None = None,
) -> Array:  # [T, H, D]
    """Causal attention with grouped heads (H = K·G) over each row's own pages; the result has q's dtype.

    A token sees the keys at its position and before, the last `window` of them if that is set; `softcap` bounds the
    scores to ±softcap by tanh. Tokens past query_start[-1] and dead rows give zeros. `decode_only` (static) promises T
    == S and one token a row, token s of row s; dead rows have context_len 0. Values are never materialised for more
    than a block of keys. `sinks` are scores that take part in each head's softmax without a value (gpt-oss). Keys and
    values of a kv head are stored divided by `kv_scale` (keys', values'), for pages in a narrower dtype than q's.
    """
    if q.shape[1] % kv_pages.shape[KV_HEADS_AXIS]:
        raise ValueError(f"{q.shape[1]} query heads are no multiple of {kv_pages.shape[KV_HEADS_AXIS]} kv heads")
    if decode_only and q.shape[0] != page_table.shape[0]:
        raise ValueError(f"decode_only wants one token a row, got {q.shape[0]} tokens and {page_table.shape[0]} rows")
    scoring = Scoring(scale, window, softcap)
    T, G = q.shape[0], q.shape[1] // kv_pages.shape[KV_HEADS_AXIS]
    mixed = not decode_only and T > tuning.FEW_TOKENS  # rows of one token are decoded, the others are not
    native: tuple[Backend, ...] = ("cpu",) if cpu.suits(q, kv_pages, kv_scale) else ()
    decoders = _decoders(q, kv_pages, page_table.shape[0], 1 if decode_only or mixed else T)
    chosen = resolve(backend, (*native, *decoders, "reference"), "paged_attention")
    prefillers = (*native, *_prefillers(q, kv_pages, kv_scale), "reference")
    others = resolve(backend, prefillers, "paged_attention") if mixed else chosen
    if chosen == "cpu":
        return cpu.attend(
            q, kv_pages, page_table, query_start, context_len, decode_only=decode_only, sinks=sinks, scoring=scoring
        )
    if "reference" in (chosen, others):
        return reference.attend(
            q, kv_pages, page_table, query_start, context_len, num_decode,
            decode_only=decode_only, sinks=sinks, kv_scale=kv_scale, scoring=scoring,
        )  # fmt: skip
    D, itemsize = q.shape[-1], kv_pages.dtype.itemsize
    given: dict[str, Any] = {"sinks": sinks, "kv_scale": kv_scale, "scoring": scoring}
    done = None
    if mixed and others == "cuda":
        done = cuda_prefill.attend(
            q, kv_pages, page_table, query_start, context_len, num_decode,
            sinks=sinks, scoring=scoring, blocks=cuda_prefill.blocks(D),
        )  # fmt: skip
    elif mixed:
        done = prefill.attend(
            q, kv_pages, page_table, query_start, context_len, num_decode,
            **given, blocks=prefill_blocks(D, itemsize), interpret=interpret(),
        )  # fmt: skip
    tile_tokens = 1
    if decode_only or mixed:
        tiles = decode.one_token_rows(context_len, T if decode_only else num_decode)
    else:
        lanes = cuda.LANES if chosen == "cuda" else tuning.FEW_LANES
        tile_tokens = min(T, max(1, lanes // G))
        tiles = decode.tiles_of(query_start, context_len, T, tile_tokens)
    arguments = q, kv_pages, page_table, tiles, done
    given["tile_tokens"] = tile_tokens
    if chosen == "cuda":
        return cuda.attend(*arguments, **given, blocks=tuning.chunk_blocks(D, itemsize))
    return decode.attend(*arguments, **given, blocks=decode_blocks(D, itemsize), interpret=interpret())


def _prefillers(q: Array, kv_pages: Array, kv_scale: Array | None) -> tuple[Backend, ...]:
    """What can attend rows of many tokens on a GPU, the faster one first."""
    return ("cuda", "pallas") if cuda_prefill.supports(q, kv_pages, kv_scale) else ("pallas",)


def _decoders(q: Array, kv_pages: Array, rows: int, tokens: int) -> tuple[Backend, ...]:
    """What can attend rows of up to `tokens` tokens on a GPU, the faster one first."""
    K = kv_pages.shape[KV_HEADS_AXIS]
    if not cuda.supports(q, kv_pages):
        return ("pallas",)
    at_once = tokens * q.shape[1] <= cuda.LANES * K  # else it reads keys several times
    return ("cuda", "pallas") if at_once and rows * K in tuning.CUDA_TILES else ("pallas", "cuda")
