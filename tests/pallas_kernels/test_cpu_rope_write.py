"""The CPU kernel of rope_write against the reference."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.rope_write import cpu, reference


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("pages_dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("heads", "head_dim", "norms"), [(2, 64, True), (1, 80, False), (5, 24, True)])
def test_like_the_reference(dtype: jnp.dtype, pages_dtype: jnp.dtype, heads: int, head_dim: int, norms: bool) -> None:
    """Dropped tokens write nothing; pages that nobody writes stay as they are."""
    T, K, N, page = 150, 3, 20, 16
    rng = np.random.default_rng(0)
    qkv = jnp.asarray(rng.standard_normal((T, K, heads + 2, head_dim)), dtype)
    angles = rng.standard_normal((T, head_dim // 2)).astype(np.float32)
    place = rng.permutation(N * page)[:T].astype(np.int32)
    place[::7] = N * page  # the page after the last
    weights = tuple(jnp.asarray(rng.standard_normal(head_dim), dtype) for _ in range(2)) if norms else None
    pages = jnp.asarray(rng.standard_normal((N, 2, K, page, head_dim)), pages_dtype)
    given = qkv, jnp.cos(angles), jnp.sin(angles), pages, place // page, place % page, weights
    want_q, want_pages = reference.rope_write(*given, 1e-6, None)
    q, written = jax.jit(functools.partial(cpu.rope_write, eps=1e-6))(*given)
    for got, want in ((q, want_q), (written, want_pages)):
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        atol = 1e-5 if got.dtype == jnp.float32 == dtype else 4e-2
        np.testing.assert_allclose(np.asarray(got, np.float32), np.asarray(want, np.float32), atol=atol, rtol=atol)


def test_donated_pages_are_written_in_place_and_others_are_not() -> None:
    T, K, G, D = 4, 2, 2, 32
    qkv, angles = jnp.ones((T, K, G + 2, D)), jnp.ones((T, D // 2))
    place = jnp.arange(T, dtype=jnp.int32)
    pages = jnp.zeros((8, 2, K, 16, D))
    kept = jax.jit(functools.partial(cpu.rope_write, norms=None, eps=0.0))(qkv, angles, angles, pages, place, place)
    assert not pages.any()
    assert kept[1].any()
    run = jax.jit(functools.partial(cpu.rope_write, norms=None, eps=0.0), donate_argnums=3)
    address = pages.unsafe_buffer_pointer()
    _, written = run(qkv, angles, angles, pages, place, place)
    assert written.unsafe_buffer_pointer() == address
    np.testing.assert_array_equal(written, kept[1])
