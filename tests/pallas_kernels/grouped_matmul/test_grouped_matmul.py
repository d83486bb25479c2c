"""The experts' products: reference and Pallas kernels (interpreted) against every expert computed for every token."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from pallas_kernels.grouped_matmul import ClampedSwiglu, grouped_mlp
from pallas_kernels.grouped_matmul.tiles import most_tiles, tiles_by_counting, tiles_by_sorting

BACKENDS = ("reference", "pallas")


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def choices(seed: int, T: int, k: int, X: int) -> np.ndarray:
    """k different experts for each token, the first ones more often."""
    rng, popularity = np.random.default_rng(seed), 1.0 / np.arange(1, X + 1)
    return np.stack([rng.choice(X, k, replace=False, p=popularity / popularity.sum()) for _ in range(T)])


def arguments(T: int, k: int, X: int, E: int, F: int) -> dict[str, np.ndarray]:
    return {
        "x": normal(0, T, E), "experts": choices(1, T, k, X), "weights": np.abs(normal(2, T, k)),
        "gate_up": normal(3, X, 2, F, E) * E**-0.5, "down": normal(4, X, E, F) * F**-0.5,
    }  # fmt: skip


def gate(name: Any, gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    if isinstance(name, ClampedSwiglu):
        gate, up = np.minimum(gate, name.limit), np.clip(up, -name.limit, name.limit)
        return (up + 1) * gate / (1 + np.exp(-name.alpha * gate))
    functions = {
        "silu": jax.nn.silu, "gelu": functools.partial(jax.nn.gelu, approximate=False), "relu": jax.nn.relu,
        "gelu_pytorch_tanh": functools.partial(jax.nn.gelu, approximate=True),
    }  # fmt: skip
    return np.asarray(functions[name](gate)) * up


def dense(
    x: np.ndarray, experts: np.ndarray, weights: np.ndarray, gate_up: np.ndarray, down: np.ndarray,
    gate_up_bias: np.ndarray | None = None, down_bias: np.ndarray | None = None, *, activation: Any = "silu",
    weigh_inputs: bool = False,
) -> np.ndarray:  # fmt: skip
    out = np.zeros_like(x)
    for t, j in np.ndindex(*experts.shape):
        if not 0 <= (e := experts[t, j]) < len(down):
            continue
        weight = weights[t, j]
        both = gate_up[e] @ (weight * x[t] if weigh_inputs else x[t])
        both += 0 if gate_up_bias is None else gate_up_bias[e]
        y = down[e] @ gate(activation, both[0], both[1])
        y += 0 if down_bias is None else down_bias[e]
        out[t] += y if weigh_inputs else weight * y
    return out


def run(arrays: dict[str, np.ndarray], backend: Any, dtype: Any = jnp.float32, **static: Any) -> np.ndarray:
    def cast(name: str, array: np.ndarray) -> Array:
        return jnp.asarray(array, {"experts": jnp.int32, "weights": jnp.float32}.get(name, dtype))

    op = jax.jit(functools.partial(grouped_mlp, backend=backend, **static))
    return np.asarray(op(**{name: cast(name, array) for name, array in arrays.items()}).astype(jnp.float32))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("T", "k", "X", "E", "F"),
    [
        (1, 1, 4, 16, 16),
        (1, 3, 5, 48, 40),
        (7, 2, 5, 48, 40),
        (40, 2, 3, 64, 24),
        (33, 4, 16, 32, 72),
        (5, 4, 4, 24, 8),
    ],
)
def test_like_every_expert_computed_alone(T: int, k: int, X: int, E: int, F: int, backend: str) -> None:
    arrays = arguments(T, k, X, E, F)
    np.testing.assert_allclose(run(arrays, backend), dense(**arrays), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("weigh_inputs", [False, True])
@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_pytorch_tanh", "relu", ClampedSwiglu(1.5, 0.7)])
def test_activations_biases_and_where_weights_apply(
    activation: Any, weigh_inputs: bool, biased: bool, backend: str
) -> None:
    arrays = arguments(6, 2, 4, 32, 24)
    if biased:
        arrays |= {"gate_up_bias": normal(5, 4, 2, 24), "down_bias": normal(6, 4, 32)}
    static = {"activation": activation, "weigh_inputs": weigh_inputs}
    np.testing.assert_allclose(run(arrays, backend, **static), dense(**arrays, **static), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("T", [1, 12])
def test_bfloat16(T: int, backend: str) -> None:
    """More tokens an expert than a matrix unit's least, and inputs that are no whole number of steps."""
    arrays = arguments(T, 3, 4, 160, 96)
    np.testing.assert_allclose(run(arrays, backend, jnp.bfloat16), dense(**arrays), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("T", [1, 9])
def test_what_is_no_expert_adds_nothing(T: int, backend: str) -> None:
    arrays = arguments(T, 3, 4, 32, 24)
    arrays["experts"][0, 1], arrays["experts"][T - 1, 2] = 4, -1
    np.testing.assert_allclose(run(arrays, backend), dense(**arrays), rtol=2e-5, atol=2e-5)
    arrays["experts"][:] = 9
    assert not run(arrays, backend).any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_token_is_the_same_to_the_bit_in_any_company(backend: str) -> None:
    arrays = arguments(24, 2, 4, 64, 32)
    alone = run(arrays, backend)[5]
    others = arrays | {"x": normal(7, 24, 64), "experts": choices(8, 24, 2, 4)}
    for name in ("x", "experts"):
        others[name][5] = arrays[name][5]
    np.testing.assert_array_equal(run(others, backend)[5], alone)


@pytest.mark.parametrize(("M", "X", "rows"), [(1, 1, 16), (5, 3, 2), (64, 8, 16), (130, 5, 16), (200, 100, 4)])
def test_tiles_hold_each_pair_once(M: int, X: int, rows: int) -> None:
    chosen = np.random.default_rng(M).integers(-1, X + 1, M)  # the ends: none
    by_sorting = tiles_by_sorting(jnp.asarray(chosen, jnp.int32), X, rows)
    by_counting = tiles_by_counting(jnp.asarray(chosen, jnp.int32), X, rows, interpret=True)
    live = np.asarray(by_sorting.table)[:, 2] > 0
    np.testing.assert_array_equal(by_sorting.order, by_counting.order)
    np.testing.assert_array_equal(np.asarray(by_sorting.table)[live], np.asarray(by_counting.table)[live])
    np.testing.assert_array_equal(by_sorting.table[:, 2], by_counting.table[:, 2])
    held = []
    for expert, first, length in np.asarray(by_sorting.table)[live]:
        pairs = np.asarray(by_sorting.order)[first : first + length]
        assert length <= rows
        assert (chosen[pairs] == expert).all()
        held += list(pairs)
    assert sorted(held) == list(np.nonzero((chosen >= 0) & (chosen < X))[0])
    assert len(live) == most_tiles(M, X, rows)


def test_refuses_shapes_that_do_not_fit() -> None:
    arrays = {name: jnp.asarray(array) for name, array in arguments(3, 2, 4, 32, 24).items()}
    with pytest.raises(ValueError, match=r"wants experts and weights \[3, k\]"):
        grouped_mlp(**arrays | {"weights": arrays["weights"][:2]})
    with pytest.raises(ValueError, match=r"wants gate_up \[X, 2, F, 32\]"):
        grouped_mlp(**arrays | {"down": arrays["down"].swapaxes(1, 2)})
    with pytest.raises(ValueError, match="unknown activation 'tanh'"):
        grouped_mlp(**arrays, activation="tanh")
