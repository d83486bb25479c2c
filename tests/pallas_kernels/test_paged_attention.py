"""Paged attention against the float64 specification: every implementation, over shapes, windows, caps and ragged
rows."""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pallas_kernels.backend import Backend
from pallas_kernels.paged_attention import KV_HEADS_AXIS, paged_attention, pages_shape, tuning
from tests.pallas_kernels.ragged import Batch, make_batch, specification

BACKENDS: tuple[Backend, ...] = ("reference", "pallas")


@functools.cache
def attention(backend: Backend, **static: object) -> Callable[..., jax.Array]:
    return jax.jit(functools.partial(paged_attention, backend=backend, **static))  # type: ignore[arg-type]


def check(
    batch: Batch, backend: Backend, *, dtype: jnp.dtype = jnp.float32, atol: float = 2e-5, **static: object
) -> None:
    static = {"scale": 0.11, "decode_only": False, **static}
    got = attention(backend, **static)(*batch.arrays(dtype))
    assert got.dtype == dtype
    want = specification(batch, **static)  # type: ignore[arg-type]
    np.testing.assert_allclose(np.asarray(got, np.float64), want, atol=atol, rtol=0)


@pytest.fixture(autouse=True)
def _ragged_tokens_take_the_prefill_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "FEW_TOKENS", 0)


@pytest.fixture
def few_tokens(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(tuning, "FEW_TOKENS", 64)
    attention.cache_clear()
    yield
    attention.cache_clear()


@pytest.mark.usefixtures("few_tokens")
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (16, 1), (2, 2)])
@pytest.mark.parametrize("window", [None, 40])
def test_few_tokens_of_long_contexts(heads: int, kv_heads: int, window: int | None) -> None:
    """Tiles of several tokens, cut into chunks of keys: tiles that end inside a page, rows without tokens, padding."""
    shape = {"heads": heads, "kv_heads": kv_heads}
    check(make_batch([1, 1, 9, 0, 20, 0], [300, 1, 700, 0, 20, 3], tokens=40, **shape), "pallas", window=window)
    check(make_batch([37, 16, 11], [1290, 16, 600], tokens=64, **shape), "pallas", window=window)
    check(make_batch([0, 0], [0, 0], tokens=3, capacity=900, **shape), "pallas", window=window)


@pytest.mark.usefixtures("few_tokens")
def test_few_tokens_with_sinks_and_pages_of_eight_bits() -> None:
    batch = make_batch([1, 9, 20], [300, 700, 20], tokens=40)
    sinks, scale = np.array([-3, 0, 1, 4], np.float32), np.array([[0.5, 2.0], [0.1, 3.0]], np.float32)
    static = {"scale": 0.11, "decode_only": False}
    got = attention("pallas", **static)(*batch.arrays(), sinks=jnp.asarray(sinks), kv_scale=jnp.asarray(scale))
    want = specification(batch, **static, sinks=sinks, kv_scale=scale)  # type: ignore[arg-type]
    np.testing.assert_allclose(got, want, atol=4e-5, rtol=0)


def test_layout() -> None:
    shape = pages_shape(7, 16, 2, 64)
    assert shape == (7, 2, 2, 16, 64)
    assert shape[KV_HEADS_AXIS] == 2


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim"), [(2, 2, 64), (8, 2, 80), (8, 1, 128), (16, 1, 96), (6, 2, 32), (4, 2, 256)]
)
def test_head_groups_and_dims(backend: Backend, heads: int, kv_heads: int, head_dim: int) -> None:
    batch = make_batch([1, 1, 9, 40], [33, 1, 9, 70], heads=heads, kv_heads=kv_heads, head_dim=head_dim, tokens=60)
    check(batch, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("page", [8, 64, 20])
def test_page_sizes(backend: Backend, page: int) -> None:
    contexts = [3 * page, 3 * page + 1, 4 * page - 1, 2 * page + 5]
    check(make_batch([1, 1, 1, page + 3], contexts, page=page), backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("window", "softcap"), [(1, None), (16, 5.0), (37, None)])
def test_window_and_softcap(backend: Backend, window: int, softcap: float | None) -> None:
    batch = make_batch([1, 1, 50, 3], [300, 20, 180, 280], tokens=64)
    check(batch, backend, window=window, softcap=softcap)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("window", "decode_only"), [(None, False), (16, False), (None, True)])
def test_sinks(backend: Backend, window: int | None, decode_only: bool) -> None:
    """Some stronger than any key, some without weight; over rows of one chunk and of several."""
    queries, contexts = ([1] * 4, [700, 5, 1, 0]) if decode_only else ([1, 1, 50, 3], [700, 20, 180, 280])
    batch = make_batch(queries, contexts, heads=6, kv_heads=2)
    sinks = np.array([-30, -1, 0, 1, 3, 12], np.float32)
    static = {"scale": 0.11, "decode_only": decode_only, "window": window}
    got = attention(backend, **static)(*batch.arrays(), sinks=jnp.asarray(sinks))
    np.testing.assert_allclose(got, specification(batch, **static, sinks=sinks), atol=2e-5, rtol=0)  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("decode_only", [False, True])
@pytest.mark.parametrize("pages_dtype", [jnp.float8_e4m3fn, jnp.float8_e5m2])
def test_pages_of_eight_bits(backend: Backend, decode_only: bool, pages_dtype: jnp.dtype) -> None:
    """Keys and values divided by a scale of their head, and rounded: what is compared is the attention over those."""
    queries, contexts = ([1] * 3, [700, 5, 0]) if decode_only else ([1, 1, 50], [700, 20, 180])
    exact = make_batch(queries, contexts, heads=4, kv_heads=2)
    scale = np.array([[0.5, 2.0], [0.1, 3.0]], np.float32)
    stored = jnp.asarray(exact.kv_pages / scale[:, :, None, None]).astype(pages_dtype)
    batch = dataclasses.replace(exact, kv_pages=np.asarray(stored, np.float32))
    static = {"scale": 0.11, "decode_only": decode_only}
    q, _, *rest = batch.arrays()
    got = attention(backend, **static, softcap=20.0)(q, stored, *rest, kv_scale=jnp.asarray(scale))
    want = specification(batch, **static, softcap=20.0, kv_scale=scale)  # type: ignore[arg-type]
    np.testing.assert_allclose(got, want, atol=2e-5, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("window", [None, 40])
def test_decode_only(backend: Backend, window: int | None) -> None:
    """Contexts of one chunk of keys and of several, dead rows, and a batch of dead rows only."""
    for contexts in ([64, 1, 1290, 128, 0], [129, 0, 0, 0, 0], [1, 2, 3, 700, 513], [0, 0, 0, 0, 0]):
        batch = make_batch([1] * 5, contexts, capacity=1300)
        check(batch, backend, decode_only=True, window=window)


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_rows_and_unowned_tokens_give_zeros(backend: Backend) -> None:
    for queries, contexts in (([1, 5, 0, 0], [7, 5, 0, 0]), ([0] * 4, [0] * 4), ([11, 0, 2, 0], [31, 0, 9, 0])):
        check(make_batch(queries, contexts, tokens=16, capacity=32), backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("dtype", "atol", "decode_only"),
    [(jnp.bfloat16, 3e-2, False), (jnp.float16, 4e-3, True)],
)
def test_narrow_types(backend: Backend, dtype: jnp.dtype, atol: float, decode_only: bool) -> None:
    queries, contexts = ([1, 1], [130, 5]) if decode_only else ([1, 1, 20], [130, 5, 50])
    check(make_batch(queries, contexts), backend, dtype=dtype, atol=atol, decode_only=decode_only)


@st.composite
def ragged(draw: st.DrawFn) -> Batch:
    """Up to 5 rows, decode rows first, 48 tokens, contexts of up to 200 keys over pages of 8."""
    decode = draw(st.integers(0, 5))
    queries = [1] * decode
    while len(queries) < 5:
        queries.append(draw(st.integers(0, (48 - sum(queries)) // (5 - len(queries)))))
    contexts = [n + draw(st.integers(0, 200 - n)) if n else 0 for n in queries]
    return make_batch(queries, contexts, tokens=48, page=8, capacity=200, seed=draw(st.integers(0, 99)))


@pytest.mark.usefixtures("few_tokens")
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=ragged())
def test_random_few_tokens(batch: Batch) -> None:
    check(batch, "pallas")


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=15, deadline=None)
@given(batch=ragged())
def test_random_ragged_batches(backend: Backend, batch: Batch) -> None:
    check(batch, backend)


def test_reference_is_the_same_in_any_company() -> None:
    """A row's result, to the bit: alone or beside others, whatever the table's capacity, its prompt whole or in
    chunks."""
    whole = make_batch([1, 1, 70, 33], [300, 5, 200, 33], tokens=128, seed=3)
    got = attention("reference", scale=0.1, decode_only=False)(*whole.arrays())
    q, kv, table, start, context, _ = whole.arrays()
    alone = attention("reference", scale=0.1, decode_only=True)(
        q[:1], kv, jnp.pad(table[:1], ((0, 0), (0, 50))), start[:2], context[:1], jnp.int32(1)
    )
    np.testing.assert_array_equal(got[:1], alone)
    for first, last in ((0, 32), (32, 64), (64, 70)):
        length = last - first
        chunk = attention("reference", scale=0.1, decode_only=False)(
            jnp.pad(q[2 + first : 2 + last], ((0, 64 - length), (0, 0), (0, 0))), kv, table[2:3],
            jnp.array([0, length], jnp.int32), jnp.array([130 + last], jnp.int32), jnp.int32(0),
        )  # fmt: skip
        np.testing.assert_array_equal(got[2 + first : 2 + last], chunk[:length])


def test_bad_shapes_are_refused() -> None:
    batch = make_batch([1, 1], [4, 4], heads=3, kv_heads=2)
    with pytest.raises(ValueError, match="3 query heads are no multiple of 2 kv heads"):
        paged_attention(*batch.arrays(), decode_only=True, scale=1.0)
    batch = make_batch([1, 1], [4, 4], tokens=3)
    with pytest.raises(ValueError, match="one token a row, got 3 tokens and 2 rows"):
        paged_attention(*batch.arrays(), decode_only=True, scale=1.0)
