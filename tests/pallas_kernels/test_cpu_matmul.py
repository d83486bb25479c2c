"""The CPU kernel of products against XLA's, and to the bit against itself in other company."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from pallas_kernels.matmul import matmul

SHAPES = [(1, 16, 16), (3, 1, 1), (5, 37, 90), (32, 512, 256), (70, 24, 1100), (130, 600, 64)]


def inputs(*shape: int, dtype: jnp.dtype = jnp.float32, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def close(got: jax.Array, want: jax.Array, dtype: jnp.dtype) -> None:
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    rtol = 1e-5 if dtype == jnp.float32 else 2e-2
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol * np.abs(want).max())


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("tokens", "outputs", "size"), SHAPES)
def test_products(tokens: int, outputs: int, size: int, dtype: jnp.dtype) -> None:
    x, weight = inputs(tokens, size, dtype=dtype), inputs(outputs, size, dtype=dtype, seed=1)
    close(matmul(x, weight, backend="cpu"), matmul(x, weight, backend="reference"), dtype)
    got = matmul(x, weight, dtype=jnp.float32, backend="cpu")
    close(got, matmul(x, weight, dtype=jnp.float32, backend="reference"), jnp.float32)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("tokens", "outputs", "size"), SHAPES)
@pytest.mark.parametrize("activation", [None, "silu"])
def test_what_stands_around_a_product(
    tokens: int, outputs: int, size: int, dtype: jnp.dtype, activation: str | None
) -> None:
    parts = () if activation is None else (2,)
    x, weight = inputs(tokens, size, dtype=dtype), inputs(*parts, outputs, size, dtype=dtype, seed=1) / size**0.5
    norm, residual = inputs(size, dtype=dtype, seed=2), inputs(tokens, outputs, dtype=dtype, seed=3)
    given = {"norm": (norm, 1e-6), "residual": residual, "activation": activation}
    close(matmul(x, weight, **given, backend="cpu"), matmul(x, weight, **given, backend="reference"), dtype)


def test_any_number_of_dimensions() -> None:
    x, weight = inputs(9, 3, 40), inputs(2, 5, 3, 40, seed=1)
    got = matmul(x, weight, backend="cpu")
    close(got, jnp.einsum("tab,cdab->tcd", x, weight, precision="highest"), jnp.float32)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("outputs", "size"), [(512, 256), (100, 90), (33, 1500)])
def test_a_token_is_the_same_to_the_bit_in_any_company(outputs: int, size: int, dtype: jnp.dtype) -> None:
    x, weight = inputs(300, size, dtype=dtype), inputs(2, outputs, size, dtype=dtype, seed=1) / size**0.5
    residual = inputs(300, outputs, dtype=dtype, seed=3)
    norm = inputs(size, seed=2), 1e-6
    product = jax.jit(functools.partial(matmul, norm=norm, activation="silu", backend="cpu"))
    whole = product(x, weight, residual=residual)
    for some in (slice(0, 1), slice(7, 9), slice(100, 103), slice(61, 70), slice(128, 192)):
        np.testing.assert_array_equal(whole[some], product(x[some], weight, residual=residual[some]))


@pytest.mark.skipif(jax.device_count() < 8, reason="wants eight devices")
def test_inside_shard_map() -> None:
    """Eight devices and their collectives on one pool of threads."""
    mesh = jax.make_mesh((8,), ("tp",), axis_types=(AxisType.Auto,))
    x, up, down = inputs(64, 256), inputs(512, 256, seed=1) / 16, inputs(256, 512, seed=2) / 16

    def on_device(x: jax.Array, up: jax.Array, down: jax.Array) -> jax.Array:
        for _ in range(10):
            x = jax.lax.psum(matmul(matmul(x, up, backend="cpu"), down, backend="cpu"), "tp")
        return x

    split = jax.jit(
        jax.shard_map(on_device, mesh=mesh, in_specs=(P(), P("tp"), P(None, "tp")), out_specs=P(), check_vma=False)
    )
    want = x
    for _ in range(10):
        want = matmul(matmul(want, up, backend="reference"), down, backend="reference")
    got = split(x, up, down)
    np.testing.assert_allclose(got, want, atol=2e-5 * float(jnp.abs(want).max()))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="do not share their inputs"):
        matmul(inputs(3, 4), inputs(5, 6))
    with pytest.raises(ValueError, match=r"wants a weight \[2, F, inputs...\]"):
        matmul(inputs(3, 4), inputs(5, 4), activation="silu")
    with pytest.raises(ValueError, match="unknown activation 'tanh'"):
        matmul(inputs(3, 4), inputs(2, 5, 4), activation="tanh")
