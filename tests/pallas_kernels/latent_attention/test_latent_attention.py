"""Latent attention against the float64 specification of attention: one kv head whose values are its keys."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.backend import Backend
from pallas_kernels.latent_attention import latent_attention, pages_shape, tuning, write_latents
from tests.pallas_kernels.ragged import Batch, make_batch, specification

BACKENDS: tuple[Backend, ...] = ("reference", "pallas")
SCALE = 0.11


@functools.cache
def attention(backend: Backend, **static: Any) -> Callable[..., jax.Array]:
    return jax.jit(functools.partial(latent_attention, backend=backend, scale=SCALE, **static))


def make(query_lens: list[int], context_lens: list[int], *, rank: int = 32, rope: int = 16, **sizes: Any) -> Batch:
    batch = make_batch(query_lens, context_lens, kv_heads=1, head_dim=rank + rope, **sizes)
    return dataclasses.replace(batch, kv_pages=batch.kv_pages[:, [0, 0]])


def arguments(batch: Batch, rank: int, dtype: jnp.dtype) -> tuple[jax.Array, ...]:
    q, kv, *ints = batch.arrays(dtype)
    return q[..., :rank], q[..., rank:], kv[:, 0, 0], *ints


def check(
    batch: Batch, backend: Backend, *, rank: int = 32, dtype: jnp.dtype = jnp.float32, atol: float = 2e-5,
    decode_only: bool = False,
) -> None:  # fmt: skip
    got = attention(backend, decode_only=decode_only)(*arguments(batch, rank, dtype))
    assert got.dtype == dtype
    want = specification(batch, scale=SCALE, decode_only=decode_only)[..., :rank]
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


def test_layout() -> None:
    assert pages_shape(7, 16, 512, 64) == (7, 16, 576)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("heads", "rank", "rope"), [(1, 32, 16), (5, 64, 32), (20, 48, 16), (100, 32, 16)])
def test_heads_and_ranks(backend: Backend, heads: int, rank: int, rope: int) -> None:
    batch = make([1, 1, 9, 20], [33, 1, 9, 70], heads=heads, rank=rank, rope=rope, tokens=36)
    check(batch, backend, rank=rank)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("page", [8, 64, 20])
def test_page_sizes(backend: Backend, page: int) -> None:
    contexts = [3 * page, 3 * page + 1, 4 * page - 1, 2 * page + 5]
    check(make([1, 1, 1, page + 3], contexts, page=page), backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_decode_of_unlike_lengths(backend: Backend) -> None:
    """Long rows are cut into chunks; dead rows and a token of no row give zeros."""
    batch = make([1] * 5, [700, 1, 0, 64, 333], heads=20, capacity=900)
    check(batch, backend, decode_only=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("heads", [16, 40])
def test_mixed_rows_and_padding(backend: Backend, heads: int) -> None:
    check(make([1, 1, 0, 37, 5], [150, 17, 0, 90, 5], heads=heads, tokens=60), backend)


@pytest.mark.usefixtures("few_tokens")
@pytest.mark.parametrize("heads", [4, 16, 100])
def test_few_tokens_of_long_contexts(heads: int) -> None:
    """Tiles of several tokens, cut into chunks: tiles that end inside a page, rows without tokens, padding."""
    check(make([1, 1, 9, 0, 20, 0], [300, 1, 700, 0, 20, 3], tokens=40, heads=heads), "pallas")
    check(make([0, 0], [0, 0], tokens=3, capacity=900, heads=heads), "pallas")


@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16(backend: Backend) -> None:
    batch = make([1, 30], [200, 90], heads=16)
    rounded = dataclasses.replace(
        batch,
        q=np.asarray(batch.q.astype(jnp.bfloat16), np.float32),
        kv_pages=np.asarray(batch.kv_pages.astype(jnp.bfloat16), np.float32),
    )
    check(rounded, backend, dtype=jnp.bfloat16, atol=2e-2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_pages_of_eight_bits(backend: Backend) -> None:
    batch = make([1, 12], [100, 40], heads=16)
    scale = np.float32(0.25)
    narrow = jnp.asarray(batch.kv_pages / scale, jnp.float8_e4m3fn)
    stored = dataclasses.replace(batch, kv_pages=np.asarray(narrow, np.float32) * scale)
    q, q_rope, _, *ints = arguments(batch, 32, jnp.float32)
    got = attention(backend, decode_only=False)(q, q_rope, narrow[:, 0, 0], *ints, latent_scale=scale)
    np.testing.assert_allclose(got, specification(stored, scale=SCALE)[..., :32], atol=4e-5, rtol=0)


def test_the_reference_does_not_depend_on_company_or_chunks() -> None:
    batch = make([1, 40, 9], [77, 120, 9], heads=4, tokens=64)
    q, q_rope, pages, table, start, context, decoding = arguments(batch, 32, jnp.float32)
    call = attention("reference", decode_only=False)
    whole = call(q, q_rope, pages, table, start, context, decoding)
    for first, last in ((1, 14), (14, 41)):  # the second row's 40 tokens in two steps, alone
        parts = (jnp.roll(x, -first, axis=0) for x in (q, q_rope))
        bounds, seen = jnp.array([0, 0, last - first, last - first]), jnp.array([0, 79 + last, 0])
        part = call(*parts, pages, table, bounds, seen, jnp.int32(0))
        np.testing.assert_array_equal(part[: last - first], whole[first:last])


def test_a_call_that_cannot_be_is_refused() -> None:
    q, q_rope, pages, *ints = arguments(make([1, 1], [4, 4]), 32, jnp.float32)
    with pytest.raises(ValueError, match="do not match"):
        latent_attention(q, q_rope[..., :8], pages, *ints, decode_only=True, scale=1.0)
    with pytest.raises(ValueError, match="one token a row"):
        latent_attention(q[:1], q_rope[:1], pages, *ints, decode_only=True, scale=1.0)


def written(backend: Backend, dtype: jnp.dtype, **given: Any) -> tuple[np.ndarray, np.ndarray]:
    """Rotated queries, and what lies at each of 21 tokens' places (of which the last two are dropped)."""
    T, H, R, Dr, Dn = 21, 5, 48, 16, 24
    random = np.random.default_rng(3)
    product = random.standard_normal((T, H * (Dn + Dr) + 3 + R + Dr))  # of both, with something between
    queries, latents = product[:, : H * (Dn + Dr)].reshape(T, H, -1), product[:, -R - Dr :]
    q = queries[..., Dn:]
    angle = random.standard_normal((T, Dr // 2))
    place = random.permutation(8 * 4)[:T].astype(np.int32)
    page, offset = np.where(np.arange(T) < T - 2, place // 4, 8).astype(np.int32), place % 4
    pages = jnp.full(pages_shape(8, 4, R, Dr), 7, given.pop("pages", dtype))
    norm = jnp.asarray(1 + 0.1 * random.standard_normal(R), dtype), 1e-3
    cos, sin = (jnp.asarray(f(angle), jnp.float32) for f in (np.cos, np.sin))
    still, turned, pages = write_latents(
        jnp.asarray(product, dtype), jnp.asarray(product, dtype), norm, cos, sin, pages, jnp.asarray(page),
        jnp.asarray(offset), heads=H, nope_dim=Dn, backend=backend, **given,
    )  # fmt: skip

    def by_hand(x: np.ndarray) -> np.ndarray:
        turn = np.exp(1j * angle).reshape(T, *(1,) * (x.ndim - 2), -1)
        z = (x[..., : Dr // 2] + 1j * x[..., Dr // 2 :]) * turn
        return np.concatenate([z.real, z.imag], -1)

    np.testing.assert_array_equal(still, jnp.asarray(queries[..., :Dn], dtype))
    latent = latents[:, :R] / np.sqrt((latents[:, :R] ** 2).mean(-1, keepdims=True) + 1e-3)
    want = np.concatenate([latent * np.asarray(norm[0], np.float64), by_hand(latents[:, R:])], -1)
    got = np.asarray(pages, np.float64)
    tolerance = {"atol": 1e-5, "rtol": 1e-5} if pages.dtype == jnp.float32 else {"atol": 0.02, "rtol": 0.1}
    np.testing.assert_allclose(np.asarray(turned, np.float64), by_hand(q), atol=1e-5 if dtype == jnp.float32 else 0.04)
    scale = float(given.get("latent_scale", 1.0))
    np.testing.assert_allclose(got[page[:-2], offset[:-2]] * scale, want[:-2], **tolerance)
    untouched = np.ones((8, 4), bool)
    untouched[page[:-2], offset[:-2]] = False
    assert (got[untouched] == 7).all()
    return np.asarray(turned, np.float64), got


@pytest.mark.parametrize("backend", BACKENDS)
def test_write_in_float32(backend: Backend) -> None:
    written(backend, jnp.float32)


def test_write_rounds_alike() -> None:
    for given in ({}, {"pages": jnp.float8_e4m3fn, "latent_scale": jnp.float32(0.5)}):
        ours, theirs = (written(backend, jnp.bfloat16, **given) for backend in BACKENDS)
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(one, other, rtol=2**-3 if given else 2**-7, atol=1e-6)


def test_write_is_in_place_when_donated() -> None:
    pages = jnp.zeros(pages_shape(64, 16, 48, 16))
    ints = jnp.zeros(3, jnp.int32)
    call = jax.jit(
        lambda q, new, gain, cos, sin, pages, page, offset: write_latents(
            q, new, (gain, 1e-6), cos, sin, pages, page, offset, heads=2, nope_dim=8, backend="reference"
        ),
        donate_argnums=5,
    )
    angle = jnp.ones((3, 8))
    lowered = call.lower(jnp.ones((3, 48)), jnp.ones((3, 64)), jnp.ones(48), angle, angle, pages, ints, ints)
    sizes = lowered.compile().memory_analysis()
    assert sizes.alias_size_in_bytes == pages.nbytes
    assert sizes.temp_size_in_bytes < pages.nbytes // 8
