"""The kernels of latent attention as compiled for the GPU, against the reference on the same GPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.latent_attention import head_attention, latent_attention, pages_shape, write_latents
from tests.pallas_kernels.ragged import make_batch

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(jax.default_backend() != "gpu", reason="no GPU")]
R, DR = 512, 64


def alike(got: jax.Array, want: jax.Array, limit: float) -> None:
    got, want = (np.asarray(x, np.float64) for x in (got, want))
    assert np.linalg.norm(got - want) < limit * np.linalg.norm(want)


def both(function, *args: jax.Array, **static: object) -> list:  # type: ignore[no-untyped-def]
    return [
        jax.jit(functools.partial(function, backend=backend, **static))(*args) for backend in ("pallas", "reference")
    ]


@pytest.mark.parametrize("heads", [16, 20, 128])
@pytest.mark.parametrize(
    ("dtype", "limit"), [(jnp.bfloat16, 1e-2), (jnp.float16, 2e-3), (jnp.float32, 1e-5), (jnp.float8_e4m3fn, 1e-2)]
)
@pytest.mark.parametrize(
    ("query_lens", "context_lens", "tokens"),
    [
        ([1] * 5, [1300, 0, 7, 64, 9000], 5),
        ([1, 1, 9, 20], [300, 1, 700, 20], 40),
        ([1, 1, 300, 170, 0], [1300, 1, 300, 1515, 0], 512),
    ],
)
def test_attention(
    query_lens: list[int], context_lens: list[int], tokens: int, dtype: jnp.dtype, limit: float, heads: int
) -> None:
    """Rows that decode, few tokens, and new tokens by keys and values of their own."""
    batch = make_batch(query_lens, context_lens, tokens=tokens, heads=heads, kv_heads=1, head_dim=R + DR)
    wide = jnp.bfloat16 if jnp.dtype(dtype).itemsize == 1 else dtype
    rng = np.random.default_rng(0)
    q, k_up, v_up = (rng.standard_normal((n, heads, 128)) for n in (tokens, R, R))
    page, offset = np.full(tokens, len(batch.kv_pages), np.int32), np.zeros(tokens, np.int32)
    for s, new in enumerate(query_lens):
        mine = np.arange(batch.query_start[s], batch.query_start[s] + new)
        position = max(context_lens[s], new) - new + np.arange(new)
        page[mine], offset[mine] = batch.page_table[s, position // 16], position % 16
    up = (jnp.asarray(x.transpose(1, 2, 0) * R**-0.5, wide) for x in (k_up, v_up))
    arrays = jnp.asarray(q, wide), jnp.asarray(batch.q[..., R:], wide), *up, jnp.asarray(batch.kv_pages[:, 0, 0], dtype)
    ints = page, offset, batch.page_table, batch.query_start, batch.context_len, np.int32(batch.num_decode)
    decode_only = tokens == len(query_lens)
    alike(*both(head_attention, *arrays, *map(jnp.asarray, ints), decode_only=decode_only, scale=0.07), limit)


@pytest.mark.parametrize("tokens", [3, 200])
def test_write(tokens: int) -> None:
    rng = np.random.default_rng(0)
    product = jnp.asarray(rng.standard_normal((tokens, 16 * 192 + R + DR)), jnp.bfloat16)
    angle = rng.standard_normal((tokens, DR // 2)).astype(np.float32)
    place = rng.permutation(64 * 16)[:tokens].astype(np.int32)
    pages = jnp.zeros(pages_shape(64, 16, R, DR), jnp.bfloat16)
    write = functools.partial(write_latents, norm=(jnp.ones(R, jnp.bfloat16), 1e-6), heads=16, nope_dim=128)
    call = {"cos": np.cos(angle), "sin": np.sin(angle), "pages": pages, "page": place // 16, "offset": place % 16}
    ours, theirs = (write(product, product, **call, backend=backend) for backend in ("pallas", "reference"))
    for one, other in zip(ours, theirs, strict=True):
        alike(one, other, 4e-3)


def test_pages_past_four_gigabytes_are_reached() -> None:
    """Offsets of a pool of 5 GB do not fit 32 bits."""
    pages = jnp.zeros(pages_shape(280_000, 16, R, DR), jnp.bfloat16)
    assert pages.nbytes > 2**32
    page = jnp.array([279_999, 3, 250_000, 236_000])
    latents = jax.random.normal(jax.random.key(0), (4, R + DR)).astype(jnp.bfloat16)
    q = jnp.ones((4, 16 * 192), jnp.bfloat16)
    still = jnp.ones((4, DR // 2)), jnp.zeros((4, DR // 2))  # angles of 0
    norm = jnp.ones(R, jnp.bfloat16), 1e-6

    @functools.partial(jax.jit, donate_argnums=0)
    def write(pages: jax.Array) -> jax.Array:
        offset = jnp.zeros(4, jnp.int32)
        return write_latents(q, latents, norm, *still, pages, page, offset, heads=16, nope_dim=128)[-1]

    pages = write(pages)
    one = jnp.ones(4, jnp.int32)
    rows = page[:, None], jnp.arange(5), one, jnp.int32(4)
    queries = jnp.ones((4, 4, R), jnp.bfloat16), jnp.ones((4, 4, DR), jnp.bfloat16)
    got = latent_attention(*queries, pages, *rows, decode_only=True, scale=1.0)
    want = pages.at[page, 0, :R].get()
    np.testing.assert_array_equal(got, jnp.repeat(want[:, None], 4, axis=1))  # one latent: itself
