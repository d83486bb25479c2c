"""The CUDA products on the GPU: against float32, in any company, and in XLA's graphs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, lax

from pallas_kernels.cuda import build
from pallas_kernels.matmul import cuda, cuda_gated, reference, tuning

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(jax.default_backend() != "gpu", reason="no GPU"),
    pytest.mark.skipif(not build.available() or build.architecture() != cuda.HOPPER, reason="no Hopper, or no nvcc"),
]

SHAPES = [  # parts, outputs, inputs
    (1, 4096, 1024), (2, 3072, 1024), (1, 1024, 3072), (2, 14336, 4096), (1, 6144, 4096), (1, 72, 192), (2, 40, 64),
]  # fmt: skip


def normal(seed: int, shape: tuple[int, ...], dtype: jnp.dtype, scale: float = 1.0) -> Array:
    return (jax.random.normal(jax.random.key(seed), shape) * scale).astype(dtype)


def arguments(
    tokens: int, parts: int, outputs: int, inputs: int, dtype: jnp.dtype, *, normed: bool, added: bool
) -> tuple[Array, Array, Array | None, Array | None]:
    x, weight = normal(0, (tokens, inputs), dtype), normal(1, (parts, outputs, inputs), dtype, inputs**-0.5)
    norm = normal(2, (inputs,), dtype) if normed else None
    return x, weight, norm, normal(3, (tokens, outputs), dtype) if added else None


@pytest.mark.parametrize(("parts", "outputs", "inputs"), SHAPES)
@pytest.mark.parametrize("tokens", [1, 8, 31])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_like_float32(tokens: int, parts: int, outputs: int, inputs: int, dtype: jnp.dtype) -> None:
    if dtype == jnp.float16 and tokens != 31:
        pytest.skip("types differ in nothing else")
    for normed, added in ((False, True), (True, False)):
        given = arguments(tokens, parts, outputs, inputs, dtype, normed=normed, added=added)
        wide = [None if array is None else array.astype(jnp.float32) for array in given]
        got = np.asarray(jax.jit(lambda *a: cuda.product(*a, eps=1e-6, dtype=dtype))(*given), np.float32)
        want = np.asarray(jax.jit(lambda *a: reference.product(*a, eps=1e-6, dtype=jnp.float32))(*wide))
        error = np.linalg.norm(got - want) / np.linalg.norm(want)
        assert error < (8e-3 if dtype == jnp.bfloat16 else 1e-3), (normed, added)


def test_a_token_alone_is_the_same_to_the_bit() -> None:
    for normed in (False, True):
        x, weight, norm, _ = arguments(16, 2, 3072, 1024, jnp.bfloat16, normed=normed, added=False)
        run = jax.jit(lambda x, weight, norm: cuda.product(x, weight, norm, None, eps=1e-6, dtype=jnp.bfloat16))
        np.testing.assert_array_equal(np.asarray(run(x, weight, norm))[5], np.asarray(run(x[5:6], weight, norm))[0])


@pytest.mark.parametrize(("outputs", "inputs"), [(14336, 4096), (3072, 1024), (1032, 320), (40, 64)])
@pytest.mark.parametrize("tokens", [65, 128, 300, 1024, 5000])
@pytest.mark.parametrize("half", tuning.GATED_HALVES)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_gates_like_float32(
    tokens: int, outputs: int, inputs: int, half: int, dtype: jnp.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    if dtype == jnp.float16 and tokens != 300:
        pytest.skip("types differ in nothing else")
    monkeypatch.setattr(cuda_gated, "gated_half", lambda *_: half)
    given = arguments(tokens, 2, outputs, inputs, dtype, normed=False, added=False)
    wide = [None if array is None else array.astype(jnp.float32) for array in given]
    run = jax.jit(lambda *a: cuda_gated.product(*a, eps=0.0, dtype=dtype))
    got = np.asarray(run(*given), np.float32)
    want = np.asarray(jax.jit(lambda *a: reference.product(*a, eps=0.0, dtype=jnp.float32))(*wide))
    error = np.linalg.norm(got - want, axis=1) / np.linalg.norm(want, axis=1)  # of each token
    assert error.max() < (2e-2 if dtype == jnp.bfloat16 else 3e-3)
    np.testing.assert_array_equal(np.asarray(run(*given), np.float32), got)


def test_a_token_has_the_same_gates_in_any_company() -> None:
    x, weight, *_ = arguments(1024, 2, 3072, 1024, jnp.bfloat16, normed=False, added=False)
    run = jax.jit(lambda x, weight: cuda_gated.product(x, weight, None, None, eps=0.0, dtype=x.dtype))
    np.testing.assert_array_equal(np.asarray(run(x, weight))[700:900], np.asarray(run(x[700:900], weight)))


@pytest.mark.parametrize("turns", [1, 3])
def test_chains_in_graphs_take_new_values(turns: int) -> None:
    """More calls than XLA's least graph, each reading what the one before wrote; alone, and as a loop's body."""
    _, weight, norm, _ = arguments(8, 1, 1024, 1024, jnp.bfloat16, normed=True, added=False)

    @jax.jit
    def call(x: Array) -> Array:
        return cuda.product(x, weight, norm, x, eps=1e-6, dtype=x.dtype)

    def calls(_: Array | int, x: Array) -> Array:
        for _ in range(12):
            x = cuda.product(x, weight, norm, x, eps=1e-6, dtype=x.dtype)
        return x

    chain = jax.jit(lambda x: calls(0, x) if turns == 1 else lax.fori_loop(0, turns, calls, x))
    done = []
    for seed in range(4):
        x = want = normal(10 + seed, (8, 1024), jnp.bfloat16)
        for _ in range(12 * turns):
            want = call(want)
        done.append((chain(x), want))
    for got, want in done:
        np.testing.assert_array_equal(np.asarray(got), np.asarray(want))
