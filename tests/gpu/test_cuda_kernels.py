"""The CUDA kernels as compiled for the GPU: against the reference, in place, and replayed from command buffers."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from pallas_kernels.cuda import build
from pallas_kernels.gumbel_argmax import gumbel_argmax
from pallas_kernels.paged_attention import cuda, paged_attention, pages_shape, tuning
from pallas_kernels.paged_attention.decode import tiles_of
from pallas_kernels.paged_attention.scoring import Scoring
from pallas_kernels.rope_write import cuda as cuda_rope
from pallas_kernels.rope_write import rope_write
from pallas_kernels.top_k import thresholds
from tests.pallas_kernels.ragged import make_batch, specification

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(jax.default_backend() != "gpu", reason="no GPU"),
    pytest.mark.skipif(not build.available(), reason="no nvcc"),
]

CONTEXTS = [5000, 1, 0, 16, 17, 777]
ATOL = {"bfloat16": 2e-2, "float16": 4e-3}


def normal(
    seed: int,
    shape: tuple[int, ...],
    dtype: jnp.dtype = jnp.float32,
    scale: float = 1.0,
) -> Array:
    return (jax.random.normal(jax.random.key(seed), shape) * scale).astype(dtype)


@pytest.fixture(params=[64, 512, 1 << 20], ids=lambda least: f"chunks of {least} keys or more")
def _chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tile of many chunks, of some, of one."""
    blocks = tuning.chunk_blocks
    monkeypatch.setattr(tuning, "chunk_blocks", lambda *sizes: replace(blocks(*sizes), least=request.param))


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "page"),
    [(32, 8, 128, 16), (16, 8, 128, 64), (8, 8, 64, 16), (14, 2, 64, 16), (16, 1, 80, 16), (8, 2, 96, 32),
     (8, 4, 256, 16), (16, 1, 192, 16)],
)  # fmt: skip
def test_decode(dtype: jnp.dtype, heads: int, kv_heads: int, head_dim: int, page: int) -> None:
    shape = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "page": page}
    batch = make_batch([1] * len(CONTEXTS), CONTEXTS, capacity=6000, **shape)
    sinks = np.asarray(normal(0, (heads,)))
    for static in ({}, {"window": 100}, {"softcap": 20.0}, {"sinks": sinks}):
        static = {"scale": head_dim**-0.5, "decode_only": True, **static}
        got = paged_attention(*batch.arrays(dtype), backend="cuda", **static)
        want = specification(batch, **static)
        np.testing.assert_allclose(np.asarray(got, np.float64), want, atol=ATOL[dtype.dtype.name], rtol=0)


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("pages", [jnp.float8_e4m3fn, jnp.float8_e5m2])
def test_decode_of_narrow_pages(dtype: jnp.dtype, pages: jnp.dtype) -> None:
    batch = make_batch([1] * len(CONTEXTS), CONTEXTS, heads=32, kv_heads=8, head_dim=64)
    q, kv_pages, *rows = batch.arrays(dtype)
    scale = jax.random.uniform(jax.random.key(0), (2, 8), minval=0.5, maxval=2.0)
    got, want = (
        paged_attention(
            q,
            kv_pages.astype(pages),
            *rows,
            decode_only=True,
            scale=0.1,
            softcap=9.0,
            kv_scale=scale,
            backend=name,
        )
        for name in ("cuda", "reference")
    )
    np.testing.assert_allclose(np.float64(got), np.float64(want), atol=2 * ATOL[dtype.dtype.name], rtol=0)


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("tile_tokens", [2, 4, 8])
@pytest.mark.parametrize("window", [None, 37])
def test_tiles_of_tokens_in_place(tile_tokens: int, window: int | None) -> None:
    lens = [4, 4, 0, 1, 3, 19]
    batch = make_batch(lens, [5000, 4, 0, 16, 17, 777], tokens=40, heads=16, kv_heads=8, head_dim=128)
    q, kv_pages, table, start, context, _ = batch.arrays(jnp.float16)
    tiles = tiles_of(start, context, 40, tile_tokens)
    tiles = tiles._replace(length=jnp.where(tiles.row == 4, 0, tiles.length))  # of these the old values stay

    def attend(q: Array, out: Array) -> Array:
        return cuda.attend(
            q, kv_pages, table, tiles, out, tile_tokens=tile_tokens, sinks=None, kv_scale=None,
            scoring=Scoring(0.1, window, None), blocks=tuning.chunk_blocks(128, 2),
        )  # fmt: skip

    compiled = jax.jit(attend, donate_argnums=1).lower(q, q).compile()
    assert compiled.memory_analysis().alias_size_in_bytes == q.nbytes
    got = np.asarray(compiled(q, jnp.full_like(q, 7)), np.float64)
    want = specification(batch, scale=0.1, window=window)
    want[9:12] = 7
    np.testing.assert_allclose(got, want, atol=4e-3, rtol=0)


def test_few_tokens_of_ragged_rows() -> None:
    batch = make_batch([4, 1, 0, 20, 9], [300, 1, 0, 20, 5000], tokens=40, heads=32, kv_heads=8, head_dim=128)
    static = {"scale": 0.1, "decode_only": False}
    got = paged_attention(*batch.arrays(jnp.float16), backend="cuda", **static)
    np.testing.assert_allclose(np.asarray(got, np.float64), specification(batch, **static), atol=4e-3, rtol=0)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(
    ("T", "K", "G", "D"),
    [(1, 8, 4, 128), (33, 8, 2, 128), (700, 2, 7, 80), (50, 1, 8, 256)],
)
def test_rope_write(dtype: jnp.dtype, normed: bool, T: int, K: int, G: int, D: int) -> None:
    rng, N = np.random.default_rng(0), T + 3
    qkv, pages = (
        normal(0, (T, K, G + 2, D), dtype, 3.0),
        normal(1, pages_shape(N, 16, K, D), dtype),
    )
    angle = jnp.asarray(rng.uniform(0, 6, (T, D // 2)), jnp.float32)
    page = jnp.asarray(np.where(rng.random(T) < 0.2, N, rng.permutation(N)[:T]), jnp.int32)
    offset = jnp.asarray(rng.integers(0, 16, T), jnp.int32)
    norms = (1 + normal(2, (D,), dtype, 0.1), 1 + normal(3, (D,), dtype, 0.1)) if normed else None
    arguments = qkv, jnp.cos(angle), jnp.sin(angle), pages, page, offset
    assert cuda_rope.supports(qkv, pages, norms, None)
    got = cuda_rope.rope_write(*arguments, norms, 1e-6, None)
    want = rope_write(*arguments, norms=norms, eps=1e-6, backend="reference")
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(np.float32(a), np.float32(b), rtol=1e-2, atol=1e-2)
    untouched = np.float32(want[1]) == np.float32(pages)
    np.testing.assert_array_equal(np.float32(got[1])[untouched], np.float32(pages)[untouched])


@pytest.mark.parametrize("V", [9, 127, 9001, 50257, 151936])
def test_thresholds_keep_what_the_reference_keeps(V: int) -> None:
    rng, S = np.random.default_rng(V), 24
    logits = rng.standard_normal((S, V)).astype(np.float32) * rng.choice([0.3, 2, 5], (S, 1)).astype(np.float32)
    logits[3], logits[5], logits[6] = np.round(logits[3]), -np.inf, 1.0
    logits[4, V // 2 :] = -np.inf
    top_k = rng.choice([0, 1, 3, 50, 600, 5000, V], S).astype(np.int32)
    top_p = rng.choice([1, 0.1, 0.9, 0.99], S).astype(np.float32)
    min_p = rng.choice([0, 0, 0.1, 0.001], S).astype(np.float32)
    temperature = rng.choice([0.5, 1, 3], S).astype(np.float32)
    got, want = (
        logits >= np.asarray(thresholds(logits, temperature, top_k, top_p, min_p, backend=name))[:, None]
        for name in ("cuda", "reference")
    )
    different = np.abs(got.sum(1) - want.sum(1))  # sums of probabilities may round across the nucleus' edge
    assert (different[top_p == 1] == 0).all()
    assert (different <= 1 + V // 10000).all()


@pytest.mark.parametrize(("S", "V"), [(1, 1), (2, 7), (64, 9001), (40, 151936)])
@pytest.mark.parametrize("kept", [False, True])
def test_gumbel_argmax_draws_the_reference_tokens(S: int, V: int, kept: bool) -> None:
    logits = jnp.round(normal(V, (S, V), scale=3.0), 1).at[:, V // 2].set(-jnp.inf).at[:, 0].set(1.0)
    temperature = jnp.resize(jnp.array([0.0, 0.6, 1.0, 30.0]), (S,))
    seed, position = (
        jnp.arange(S, dtype=jnp.int32) * 77 - 5,
        jnp.arange(S, dtype=jnp.int32) + 3,
    )
    keep = jnp.minimum(jnp.linspace(-1, 3, S), 1.0) if kept else None
    got, want = (gumbel_argmax(logits, temperature, keep, seed, position, backend=n) for n in ("cuda", "reference"))
    np.testing.assert_array_equal(got, want)


def test_replays_of_a_command_buffer_give_the_same() -> None:
    batch = make_batch([1] * len(CONTEXTS), CONTEXTS, heads=32, kv_heads=8, head_dim=128)
    q, kv_pages, *rows = batch.arrays(jnp.bfloat16)
    S, V, page = len(CONTEXTS), 32000, jnp.full((len(CONTEXTS),), kv_pages.shape[0])
    zeros = jnp.zeros((S,), jnp.int32)
    angle, ones, head = (
        jnp.ones((S, 64)),
        jnp.ones((S,)),
        normal(0, (32 * 128, V), scale=0.02),
    )

    @jax.jit
    def step(q: Array, kv_pages: Array) -> tuple[Array, Array]:
        for _ in range(3):
            qkv = jnp.concatenate([q.reshape(S, 8, 4, 128), jnp.ones((S, 8, 2, 128), q.dtype)], axis=2)
            q, kv_pages = cuda_rope.rope_write(qkv, angle, angle, kv_pages, page, zeros, None, 0.0, None)
            q = paged_attention(q, kv_pages, *rows, decode_only=True, scale=0.1, backend="cuda")
        logits = q.reshape(S, -1).astype(jnp.float32) @ head
        keep = thresholds(logits, ones, zeros + 50, ones * 0.9, zeros * 0.0, backend="cuda")
        return gumbel_argmax(logits, ones, keep, zeros, zeros, backend="cuda"), q

    first = step(q, kv_pages)
    assert all(jnp.isfinite(x.astype(jnp.float32)).all() for x in first)
    for _ in range(3):
        for a, b in zip(step(q, kv_pages), first, strict=True):
            np.testing.assert_array_equal(a, b)
