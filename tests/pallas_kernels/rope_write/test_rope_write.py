"""Normalising, rotating and writing in one kernel, against numpy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxengine.layers.rope import Rope
from pallas_kernels.paged_attention import paged_attention, pages_shape
from pallas_kernels.rope_write import rope_write
from tests.pallas_kernels.ragged import make_batch
from tests.pallas_kernels.ragged import specification as attention


def arguments(T: int, K: int, G: int, D: int, dtype: jnp.dtype, page_size: int = 4) -> list:
    """qkv, angles, random pages, and places of which some are dropped."""
    rng = np.random.default_rng(T)
    N = T + 2
    qkv = jnp.asarray(rng.standard_normal((T, K, G + 2, D)) * 3, dtype)
    angles = Rope(D).angles(jnp.asarray(rng.integers(0, 5000, T), jnp.int32))
    pages = jnp.asarray(rng.standard_normal(pages_shape(N, page_size, K, D)), dtype)
    page = np.where(np.arange(T) % 3 == 2, N + np.arange(T) % 2, rng.permutation(N)[:T])
    return [qkv, *angles, pages, jnp.asarray(page, jnp.int32), jnp.asarray(rng.integers(0, page_size, T), jnp.int32)]


def specification(args: list, norms: tuple | None, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """Queries [T, H, D] and pages, in float64."""
    qkv, cos, sin, pages, page, offset = (np.asarray(array, np.float64) for array in args)
    (T, K, places, D), written = qkv.shape, pages.copy()
    turned = qkv.copy()
    if norms is not None:
        turned[:, :, :-1] /= np.sqrt((qkv[:, :, :-1] ** 2).mean(-1, keepdims=True) + eps)
        turned[:, :, :-2] *= np.asarray(norms[0], np.float64)
        turned[:, :, -2] *= np.asarray(norms[1], np.float64)
    phase = (cos + 1j * sin)[:, None, None]
    complex_ = (turned[..., : D // 2] + 1j * turned[..., D // 2 :]) * phase
    turned = np.concatenate([complex_.real, complex_.imag], axis=-1)
    for t in range(T):
        if page[t] < len(pages):
            written[int(page[t]), 0, :, int(offset[t])] = turned[t, :, -2]
            written[int(page[t]), 1, :, int(offset[t])] = qkv[t, :, -1]
    return turned[:, :, :-2].reshape(T, K * (places - 2), D), written


@pytest.mark.parametrize("backend", ["reference", "pallas"])
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(("T", "K", "G", "D"), [(1, 2, 2, 8), (5, 1, 3, 16), (70, 2, 1, 12)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)])
def test_like_the_specification(
    backend: str, normed: bool, T: int, K: int, G: int, D: int, dtype: jnp.dtype, tolerance: float
) -> None:
    args = arguments(T, K, G, D, dtype)
    norms = tuple(1 + 0.1 * jax.random.normal(jax.random.key(i), (D,), dtype) for i in range(2)) if normed else None
    got_q, got_pages = jax.jit(lambda *args: rope_write(*args, norms=norms, eps=1e-6, backend=backend))(*args)
    want_q, want_pages = specification(args, norms, 1e-6)
    close = {"rtol": tolerance, "atol": tolerance * 4}
    np.testing.assert_allclose(np.float64(got_q), want_q, **close)
    np.testing.assert_allclose(np.float64(got_pages), want_pages, **close)
    untouched = want_pages == np.float64(args[3])
    np.testing.assert_array_equal(np.float64(got_pages)[untouched], np.float64(args[3])[untouched])


@pytest.mark.parametrize("backend", ["reference", "pallas"])
def test_values_and_dropped_tokens_are_exact(backend: str) -> None:
    qkv, cos, sin, pages, page, offset = arguments(6, 2, 2, 8, jnp.bfloat16)
    _, got = rope_write(qkv, cos, sin, pages, jnp.full_like(page, 99), offset, backend=backend)
    np.testing.assert_array_equal(got, pages)
    _, got = rope_write(qkv, cos, sin, pages, page, offset, backend=backend)
    live = page < len(pages)
    np.testing.assert_array_equal(got[page, 1, :, offset][live], qkv[:, :, -1][live])


def test_float32_and_wider_pages() -> None:
    args = arguments(3, 2, 2, 8, jnp.float32)
    for dtype in (jnp.float32, jnp.bfloat16):
        args[3] = args[3].astype(dtype)
        want, got = (rope_write(*args, backend=backend) for backend in ("reference", "pallas"))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(np.float32(a), np.float32(b), rtol=1e-5, atol=1e-5), want, got
        )


@pytest.mark.parametrize("backend", ["reference", "pallas"])
@pytest.mark.parametrize("narrow", [jnp.float8_e4m3fn, jnp.float8_e5m2])
@pytest.mark.parametrize("scaled", [False, True])
def test_pages_of_eight_bits(backend: str, narrow: jnp.dtype, scaled: bool) -> None:
    """Stored divided by the head's scale, to the nearest, and never beyond the largest."""
    args = arguments(7, 2, 2, 8, jnp.bfloat16)
    args[0] = args[0].at[0, 0, -1, 0].set(1e6)
    plain = specification(args, None, 0.0)[1]
    args[3] = jnp.zeros(args[3].shape, narrow)
    scale = jnp.asarray([[0.5, 2.0], [0.02, 8.0]]) if scaled else None
    _, got = rope_write(*args, kv_scale=scale, backend=backend)
    page, offset = (np.asarray(array) for array in args[4:])
    live = page < len(plain)
    want = plain[page[live], :, :, offset[live]] / (1 if scale is None else np.asarray(scale, np.float64)[:, :, None])
    found = np.float64(got[page[live], :, :, offset[live]])
    largest = float(jnp.finfo(narrow).max)
    np.testing.assert_allclose(found, np.clip(want, -largest, largest), rtol=0.14, atol=0.01)
    assert np.abs(found).max() == largest


@pytest.mark.parametrize("backend", ["reference", "pallas"])
def test_what_is_written_is_read(backend: str) -> None:
    """A prompt written in two chunks and attended to equals the specification over the same keys and values."""
    batch = make_batch([20], [50])
    q, _, *rest = batch.arrays()
    kv = batch.kv_pages[batch.page_table[0, np.arange(50) // 16], :, :, np.arange(50) % 16]  # [50, 2, K, D]
    K, D = kv.shape[2:]
    qkv = np.concatenate([np.zeros((50, K, q.shape[1] // K, D)), kv.swapaxes(1, 2)], axis=2)  # [50, K, G + 2, D]
    qkv[30:, :, :-2] = np.asarray(q).reshape(20, K, -1, D)
    still = jnp.ones((50, D // 2)), jnp.zeros((50, D // 2))
    page, offset = jnp.asarray(batch.page_table[0, np.arange(50) // 16]), jnp.arange(50) % 16
    pages = jnp.full(batch.kv_pages.shape, jnp.nan)
    for chunk in (slice(0, 30), slice(30, 50)):
        new = (array[chunk] for array in (jnp.asarray(qkv, jnp.float32), *still))
        queries, pages = rope_write(*new, pages, page[chunk], offset[chunk], backend=backend)
    np.testing.assert_array_equal(queries, q)
    got = paged_attention(queries, pages, *rest, decode_only=False, scale=0.2, backend="reference")
    np.testing.assert_allclose(got, attention(batch, scale=0.2), atol=2e-5)


def test_is_in_place_when_donated() -> None:
    qkv, cos, sin, pages, page, offset = arguments(3, 2, 2, 32, jnp.float32, page_size=64)
    call = jax.jit(lambda *args: rope_write(*args, backend="reference"), donate_argnums=3)
    sizes = call.lower(qkv, cos, sin, pages, page, offset).compile().memory_analysis()
    assert sizes.alias_size_in_bytes == pages.nbytes
    assert sizes.temp_size_in_bytes < pages.nbytes // 8
