"""Attention of heads whose keys and values come from latents, against float64: absorbed, and new tokens expanded."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.backend import Backend
from pallas_kernels.latent_attention import head_attention, tuning
from tests.pallas_kernels.ragged import make_batch

R, DR, PAGE, SCALE = 32, 16, 8, 0.17


@pytest.fixture(autouse=True)
def _all_tokens_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "FEW_TOKENS", 0)


def check(
    query_lens: list[int], context_lens: list[int], *, backend: Backend, heads: int = 3, nope: int = 24,
    value: int = 20, tokens: int | None = None, dtype: jnp.dtype = jnp.float32, atol: float = 2e-5,
) -> None:  # fmt: skip
    batch = make_batch(
        query_lens, context_lens, tokens=tokens, heads=heads, kv_heads=1, head_dim=R + DR, page=PAGE, seed=2
    )
    random = np.random.default_rng(0)
    T, pages = len(batch.q), batch.kv_pages[:, 0, 0]
    q, q_rope = random.standard_normal((T, heads, nope)), random.standard_normal((T, heads, DR))
    k_up, v_up = (random.standard_normal((heads, dim, R)) * R**-0.5 for dim in (nope, value))
    page, offset = np.full(T, len(pages), np.int32), np.zeros(T, np.int32)
    want = np.zeros((T, heads, value))
    rounded = (np.asarray(jnp.asarray(x, dtype), np.float64) for x in (q, q_rope, k_up, v_up, pages))
    q64, rope64, k64, v64, pages64 = rounded
    for s, (new, context) in enumerate(zip(query_lens, context_lens, strict=True)):
        at = np.arange(context)
        mine = np.arange(batch.query_start[s], batch.query_start[s] + new)
        row = pages64[batch.page_table[s, at // PAGE], at % PAGE]
        k, v = np.einsum("nr,hdr->nhd", row[:, :R], k64), np.einsum("nr,hdr->nhd", row[:, :R], v64)
        position = context - new + np.arange(new)
        page[mine], offset[mine] = batch.page_table[s, position // PAGE], position % PAGE
        scores = np.einsum("thd,nhd->htn", q64[mine], k) + np.einsum("thd,nd->htn", rope64[mine], row[:, R:])
        scores = np.where(at <= position[:, None], scores * SCALE, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True, initial=-1e30))
        want[mine] = np.einsum("htn,nhd->thd", weights / weights.sum(-1, keepdims=True), v)
    ints = batch.page_table, batch.query_start, batch.context_len, np.int32(batch.num_decode)
    call = jax.jit(functools.partial(head_attention, decode_only=False, scale=SCALE, backend=backend))
    got = call(*(jnp.asarray(x, dtype) for x in (q, q_rope, k_up, v_up, pages)), page, offset, *map(jnp.asarray, ints))
    assert got.dtype == dtype
    np.testing.assert_allclose(np.asarray(got, np.float64), want, atol=atol)


@pytest.mark.parametrize("backend", ["reference", "pallas"])
def test_new_tokens_with_and_without_something_before(backend: Backend) -> None:
    """Rows that decode, a whole prompt, the middle of one, its end, an empty row, and tokens of no row."""
    check([1, 1, 30, 25, 3, 0], [40, 1, 30, 90, 64, 0], tokens=70, backend=backend)


@pytest.mark.parametrize(("heads", "nope", "value"), [(1, 16, 16), (5, 40, 64), (2, 130, 20)])
def test_head_sizes(heads: int, nope: int, value: int) -> None:
    check([20, 17], [33, 17], heads=heads, nope=nope, value=value, backend="pallas")


def test_prompts_of_several_tiles() -> None:
    check([1, 150, 90], [20, 150, 200], heads=2, backend="pallas", dtype=jnp.bfloat16, atol=0.04)


def test_no_tokens_but_those_that_decode() -> None:
    check([1, 1, 1], [9, 30, 1], tokens=5, backend="pallas")
