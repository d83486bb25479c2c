"""The experts' products, their choice and their tiles on the GPU, against the references."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, lax

from pallas_kernels.cuda import build
from pallas_kernels.grouped_matmul import ClampedSwiglu, grouped_mlp, tiles_cuda
from pallas_kernels.grouped_matmul.tiles import FIRST, Tiles, most_tiles, tiles_by_sorting, tiles_of
from pallas_kernels.top_experts import Rule, top_experts

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(jax.default_backend() != "gpu", reason="no GPU")]

SIZES = {  # k, experts, hidden, mlp
    "qwen3 30b": (8, 128, 2048, 768),
    "mixtral, small": (2, 8, 1024, 3584),
    "gpt-oss": (4, 32, 2880, 2880),
}
TILES = [(2, 16), (33, 128), (256, 16), (513, 64), (1536, 64), (2048, 32), (4096, 128)]  # pairs, rows of a tile
needs_nvcc = pytest.mark.skipif(not build.available(), reason="no nvcc")


def normal(seed: int, shape: tuple[int, ...], scale: float = 1.0) -> Array:
    return jax.random.normal(jax.random.key(seed), shape) * scale


def arguments(tokens: int, k: int, X: int, E: int, F: int) -> dict[str, Any]:
    random = np.random.default_rng(0)
    chosen = (random.random((tokens, X)) * np.arange(1, X + 1)).argsort(axis=1)[:, :k]  # the first ones more often
    return {
        "x": normal(0, (tokens, E)), "experts": jnp.asarray(chosen, jnp.int32),
        "weights": jnp.asarray(random.random((tokens, k)), jnp.float32),
        "gate_up": normal(1, (X, 2, F, E), E**-0.5), "down": normal(2, (X, E, F), F**-0.5),
    }  # fmt: skip


def cast(arrays: dict[str, Any], dtype: Any) -> dict[str, Any]:
    kept = ("experts", "weights")
    return {name: array if name in kept else array.astype(dtype) for name, array in arrays.items()}


def error(given: dict[str, Any], of: str = "pallas", **static: Any) -> float:
    """Relative, of the kernel with what is given against the reference in float32."""

    def run(backend: Any, arrays: dict[str, Any]) -> Array:
        return grouped_mlp(**arrays, backend=backend, **static).astype(jnp.float32)

    got = jax.jit(lambda arrays: run(of, arrays))(given)
    want = jax.jit(lambda arrays: run("reference", arrays))(cast(given, jnp.float32))
    return float(jnp.linalg.norm(got - want) / jnp.linalg.norm(want))


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("tokens", [1, 2, 33, 300, 5000])  # one expert a tile; counted; more rows a tile; sorted
def test_bfloat16(tokens: int, name: str) -> None:
    given = cast(arguments(tokens, *SIZES[name]), jnp.bfloat16)
    assert error(given) < 1e-2


ALONE = {name: SIZES[name] for name in ("qwen3 30b", "gpt-oss")} | {
    "deepseek v2 lite": (6, 64, 2048, 1408), "deepseek v3": (8, 64, 7168, 2048), "odd": (3, 5, 1000, 200)
}  # fmt: skip


@needs_nvcc
@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize(("dtype", "limit"), [(jnp.bfloat16, 1e-2), (jnp.float16, 2e-3)])
def test_a_token_alone(dtype: Any, limit: float, name: str) -> None:
    given = cast(arguments(1, *ALONE[name]), dtype)
    assert error(given, of="cuda") < limit
    none = jnp.array([[-1, ALONE[name][1]]], jnp.int32)  # the others are no experts
    assert error(given | {"experts": given["experts"].at[:, :2].set(none)}, of="cuda") < limit


@needs_nvcc
def test_a_token_alone_in_graphs_takes_new_values() -> None:
    """Layers in a row, each reading what the one before wrote: kernels of the later ones start early."""
    given = cast(arguments(1, *SIZES["qwen3 30b"]), jnp.bfloat16)
    x = given.pop("x")

    def chain(x: Array, backend: Any) -> Array:
        for _ in range(12):
            x = x + grouped_mlp(x, **given, backend=backend)
        return x.astype(jnp.float32)

    cuda, pallas = (jax.jit(functools.partial(chain, backend=backend)) for backend in ("cuda", "pallas"))
    for seed in range(4):
        x = normal(seed, x.shape).astype(jnp.bfloat16)
        got, want = cuda(x), pallas(x)
        assert jnp.linalg.norm(got - want) < 3e-2 * jnp.linalg.norm(want)


@pytest.mark.parametrize("tokens", [1, 70])
@pytest.mark.parametrize(("dtype", "limit"), [(jnp.float32, 1e-5), (jnp.float16, 2e-3)])
def test_other_types(dtype: Any, limit: float, tokens: int) -> None:
    given = cast(arguments(tokens, 4, 16, 512, 384), dtype)
    assert error(given) < limit


@pytest.mark.parametrize("tokens", [1, 40, 2000])
@pytest.mark.parametrize("weigh_inputs", [False, True])
@pytest.mark.parametrize("activation", ["gelu", "gelu_pytorch_tanh", ClampedSwiglu()])
def test_activations_and_biases(activation: Any, weigh_inputs: bool, tokens: int) -> None:
    given = arguments(tokens, 4, 32, 1024, 720)
    given |= {"gate_up_bias": normal(5, (32, 2, 720)), "down_bias": normal(6, (32, 1024))}
    assert error(cast(given, jnp.bfloat16), activation=activation, weigh_inputs=weigh_inputs) < 1e-2


@pytest.mark.parametrize("tokens", [1, 40, 2000])
def test_pairs_without_an_expert(tokens: int) -> None:
    given = cast(arguments(tokens, 4, 32, 1024, 720), jnp.bfloat16)
    given["experts"] = given["experts"].at[::3, 1].set(32).at[-1, 2].set(-1)
    assert error(given) < 1e-2


def test_a_token_is_the_same_to_the_bit_in_any_company() -> None:
    given = cast(arguments(64, *SIZES["qwen3 30b"]), jnp.bfloat16)
    run = jax.jit(lambda arrays: grouped_mlp(**arrays, backend="pallas"))
    others = given | {"x": given["x"][::-1].at[5].set(given["x"][5]), "experts": given["experts"].at[6:].set(0)}
    np.testing.assert_array_equal(run(given)[5], run(others)[5])


@pytest.mark.parametrize("X", [8, 60, 128, 256])
@pytest.mark.parametrize("scoring", ["softmax", "sigmoid", "top_softmax", "top_sigmoid"])
def test_choice(scoring: Any, X: int) -> None:
    logits = normal(0, (500, X), 3.0).astype(jnp.bfloat16)
    correction = None if scoring.startswith("top") else normal(1, (X,), 0.1)
    rule = Rule(6, scoring, renormalise=not scoring.startswith("top"), scale=2.5)
    got, want = (top_experts(logits, correction, rule, backend=backend) for backend in ("pallas", "reference"))
    same = np.asarray(got[0] == want[0])
    assert same.mean() > 0.99  # scores that differ in their last bit may change places
    np.testing.assert_allclose(np.asarray(got[1])[same], np.asarray(want[1])[same], rtol=1e-5)


def choices(pairs: int, X: int) -> dict[str, Array]:
    """Experts of so many pairs, evenly and unevenly drawn."""
    random = np.random.default_rng(pairs + X)
    wild = random.choice([-(2**31), -1, X, X + 1, 2**31 - 1, *range(X)], pairs)
    drawn = {
        "evenly": random.integers(0, X, pairs), "the first more often": random.geometric(0.2, pairs) - 1,
        "not all": wild, "one": np.full(pairs, X // 2), "the last": np.full(pairs, X - 1), "none": np.full(pairs, X),
    }  # fmt: skip
    return {name: jnp.asarray(chosen, jnp.int32) for name, chosen in drawn.items()}


@needs_nvcc
@pytest.mark.parametrize(("pairs", "rows"), TILES)
@pytest.mark.parametrize("X", [2, 8, 60, 64, 128, 256, 512])
def test_cuda_tiles_are_those_of_sorting(X: int, pairs: int, rows: int) -> None:
    most = most_tiles(pairs, X, rows)
    count = jax.jit(lambda chosen: Tiles(*tiles_cuda.tiles(chosen, X, rows, most)))
    sort = jax.jit(lambda chosen: tiles_by_sorting(chosen, X, rows))
    for name, chosen in choices(pairs, X).items():
        got, want = count(chosen), sort(chosen)
        np.testing.assert_array_equal(got.order, want.order, name)
        np.testing.assert_array_equal(got.table, want.table, name)


@needs_nvcc
@pytest.mark.parametrize("turns", [1, 3])
@pytest.mark.parametrize("pairs", [256, 2048])
def test_chains_of_tiles_in_graphs_take_new_values(pairs: int, turns: int) -> None:
    """More calls than XLA's least graph, each of what the one before wrote; alone, and as a loop's body."""
    X, rows = 128, 16

    def chain(make: Any) -> Any:
        def calls(_: Array | int, chosen: Array) -> Array:
            for _ in range(12):
                tiles = make(chosen, X, rows)
                chosen = (5 * chosen[tiles.order] + tiles.order + tiles.table[:, FIRST].sum()) % (X + 2) - 1
            return chosen

        return jax.jit(lambda chosen: calls(0, chosen) if turns == 1 else lax.fori_loop(0, turns, calls, chosen))

    def in_cuda(*arguments: Any) -> Tiles:
        return tiles_of(*arguments, interpret=False)

    counted, by_sorting = chain(in_cuda), chain(tiles_by_sorting)
    inputs = [jnp.asarray(np.random.default_rng(seed).integers(-1, X + 1, pairs), jnp.int32) for seed in range(4)]
    assert "expert_tiles" in counted.lower(inputs[0]).as_text()
    results = [counted(chosen) for chosen in inputs]
    for chosen, result in zip(inputs, results, strict=True):
        np.testing.assert_array_equal(result, by_sorting(chosen))
