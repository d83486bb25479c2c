"""Paged attention against the float64 specification: every implementation, over shapes, windows, caps and ragged rows."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.backend import Backend
from pallas_kernels.paged_attention import KV_HEADS_AXIS, paged_attention, pages_shape
from tests.pallas_kernels.ragged import Batch, make_batch, specification

BACKENDS: tuple[Backend, ...] = ("reference",)


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


def test_layout() -> None:
    shape = pages_shape(7, 16, 2, 64)
    assert shape == (7, 2, 2, 16, 64)
    assert shape[KV_HEADS_AXIS] == 2


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (8, 2), (8, 1), (16, 1), (6, 2)])
@pytest.mark.parametrize("head_dim", [64, 80])
def test_head_groups(backend: Backend, heads: int, kv_heads: int, head_dim: int) -> None:
    batch = make_batch([1, 1, 9, 40], [33, 1, 9, 70], heads=heads, kv_heads=kv_heads, head_dim=head_dim, tokens=60)
    check(batch, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("head_dim", [32, 96, 128, 256])
@pytest.mark.parametrize("page", [8, 16, 64])
def test_head_dims_and_page_sizes(backend: Backend, head_dim: int, page: int) -> None:
    contexts = [3 * page, 3 * page + 1, 4 * page - 1, 2 * page + 5]
    check(make_batch([1, 1, 1, page + 3], contexts, head_dim=head_dim, page=page), backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("window", [1, 16, 37, 1000])
@pytest.mark.parametrize("softcap", [None, 5.0])
def test_window_and_softcap(backend: Backend, window: int, softcap: float | None) -> None:
    batch = make_batch([1, 1, 50, 3], [300, 20, 180, 280], tokens=64)
    check(batch, backend, window=window, softcap=softcap)


@pytest.mark.parametrize("backend", BACKENDS)
def test_softcap_alone(backend: Backend) -> None:
    check(make_batch([1, 20], [150, 30]), backend, softcap=3.0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("contexts", [[1], [129, 0, 0], [64, 1, 500, 128, 0], [0, 0]])
@pytest.mark.parametrize("window", [None, 40])
def test_decode_only(backend: Backend, contexts: list[int], window: int | None) -> None:
    batch = make_batch([1] * len(contexts), contexts, capacity=640)
    check(batch, backend, decode_only=True, window=window)


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_rows_and_unowned_tokens_give_zeros(backend: Backend) -> None:
    check(make_batch([1, 5, 0, 0], [7, 5, 0, 0], tokens=16), backend)
    check(make_batch([0, 0, 0], [0, 0, 0], tokens=4), backend)
    check(make_batch([40, 0, 2], [40, 0, 9], tokens=64), backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("dtype", "atol"), [(jnp.bfloat16, 3e-2), (jnp.float16, 4e-3)])
def test_narrow_types(backend: Backend, dtype: jnp.dtype, atol: float) -> None:
    batch = make_batch([1, 1, 40], [300, 5, 90])
    check(batch, backend, dtype=dtype, atol=atol)
    check(make_batch([1, 1], [300, 5]), backend, dtype=dtype, atol=atol, decode_only=True)


def test_reference_is_the_same_in_any_company() -> None:
    """A row's result, to the bit: alone or beside others, whatever the table's capacity, its prompt whole or in chunks."""
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
