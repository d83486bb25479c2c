"""The experts' products and their choice on the GPU, against the references in float32."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from pallas_kernels.grouped_matmul import ClampedSwiglu, grouped_mlp
from pallas_kernels.top_experts import Rule, top_experts

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(jax.default_backend() != "gpu", reason="no GPU")]

SIZES = {  # k, experts, hidden, mlp
    "qwen3 30b": (8, 128, 2048, 768),
    "mixtral, small": (2, 8, 1024, 3584),
    "gpt-oss": (4, 32, 2880, 2880),
}


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


def error(given: dict[str, Any], **static: Any) -> float:
    """Relative, of the kernel with what is given against the reference in float32."""

    def run(backend: Any, arrays: dict[str, Any]) -> Array:
        return grouped_mlp(**arrays, backend=backend, **static).astype(jnp.float32)

    got = jax.jit(lambda arrays: run("pallas", arrays))(given)
    want = jax.jit(lambda arrays: run("reference", arrays))(cast(given, jnp.float32))
    return float(jnp.linalg.norm(got - want) / jnp.linalg.norm(want))


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("tokens", [1, 2, 33, 300, 5000])  # one expert a tile; counted; more rows a tile; sorted
def test_bfloat16(tokens: int, name: str) -> None:
    given = cast(arguments(tokens, *SIZES[name]), jnp.bfloat16)
    assert error(given) < 1e-2


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
