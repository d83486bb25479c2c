"""Attention in chunks, as rows that are cut at their bounds, against a mask over all keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxengine.cache.full import PagedRows
from jaxengine.layers.chunks import rows_in_chunks
from pallas_kernels.paged_attention import paged_attention, pages_shape

H, K, D, PAGE, CHUNK = 4, 2, 8, 2, 6


def paged(counts: list[int], contexts: list[int], tokens: int, decode_only: bool) -> PagedRows:
    """Rows of so many tokens, the last of each at the end of its context."""
    width = -(-max(contexts) // PAGE) + 1
    table = np.random.default_rng(0).permutation(len(counts) * width).reshape(-1, width)
    start = np.cumsum([0, *counts])
    decoding = next((i for i, n in enumerate(counts) if n != 1), len(counts))
    ints = [jnp.asarray(x, jnp.int32) for x in (table, start, contexts, decoding)]
    nowhere = jnp.zeros(tokens, jnp.int32)
    return PagedRows(*ints, nowhere, nowhere, jnp.arange(len(counts)), (), decode_only)


def expected(q: np.ndarray, pages: np.ndarray, rows: PagedRows) -> np.ndarray:
    out = np.zeros_like(q)
    for s, context in enumerate(np.asarray(rows.context_len)):
        first, end = (s, s + 1) if rows.decode_only else np.asarray(rows.query_start)[s : s + 2]
        for token in range(first, end) if context else ():
            position = context - (end - token)
            seen = np.arange(position // CHUNK * CHUNK, position + 1)
            keys, values = pages[np.asarray(rows.page_table)[s][seen // PAGE], :, :, seen % PAGE].swapaxes(0, 1)
            for head in range(H):
                scores = keys[:, head // (H // K)] @ q[token, head] * D**-0.5
                weights = np.exp(scores - scores.max())
                out[token, head] = weights / weights.sum() @ values[:, head // (H // K)]
    return out


@pytest.mark.parametrize(
    ("counts", "contexts", "tokens"),
    [
        ([1, 1, 1], [6, 7, 13], 3),
        ([1, 1, 14, 5, 1], [12, 3, 20, 7, 19], 24),  # cut in three; within one; a row of one token behind others
        ([19], [19], 19),
        ([6, 6, 0], [6, 12, 0], 14),  # whole chunks, a dead row, tokens of no row
        ([2] * 6, [7, 13, 7, 13, 2, 6], 12),  # as many cuts as can be
    ],
)
def test_rows_of_several_tokens(counts: list[int], contexts: list[int], tokens: int) -> None:
    rows = paged(counts, contexts, tokens, decode_only=False)
    check(rows, tokens)


def test_rows_of_one_token() -> None:
    check(paged([1] * 5, [1, 0, 6, 7, 15], 5, decode_only=True), 5)


def check(rows: PagedRows, tokens: int) -> None:
    random = np.random.default_rng(1)
    pages = random.standard_normal(pages_shape(rows.page_table.size, PAGE, K, D)).astype(np.float32)
    q = random.standard_normal((tokens, H, D)).astype(np.float32)
    cut = jax.jit(lambda rows: rows_in_chunks(rows, tokens, CHUNK, PAGE))(rows)
    assert cut.page_table.shape[1] == min(CHUNK // PAGE, rows.page_table.shape[1])
    got = paged_attention(
        jnp.asarray(q), jnp.asarray(pages), cut.page_table, cut.query_start, cut.context_len, cut.num_decode,
        decode_only=cut.decode_only, scale=D**-0.5, backend="reference",
    )  # fmt: skip
    np.testing.assert_allclose(got, expected(q, pages, rows), rtol=1e-5, atol=1e-5)
