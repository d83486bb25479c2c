"""Norm, products, embedding and logits on their own."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxengine.layers import embedding
from jaxengine.layers.linear import project
from jaxengine.layers.norm import rms_norm
from jaxengine.sharding import make_mesh, named_sharding


def test_rms_norm_is_computed_in_float32() -> None:
    x = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32) * 300
    weight = np.linspace(0.5, 2, 64, dtype=np.float32)
    expected = x / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + 1e-6) * weight
    np.testing.assert_allclose(rms_norm(jnp.asarray(x), jnp.asarray(weight), 1e-6), expected, rtol=1e-5)
    half = rms_norm(jnp.asarray(x, jnp.float16), jnp.asarray(weight, jnp.float16), 1e-6)  # 300² overflows float16
    assert half.dtype == jnp.float16
    np.testing.assert_allclose(half.astype(np.float32), expected, rtol=5e-3, atol=1e-3)


def test_products_are_summed_in_float32() -> None:
    x = jnp.ones((1, 4096), jnp.bfloat16)
    out = project("te,fe->tf", x, jnp.ones((1, 4096), jnp.bfloat16), jnp.ones(1, jnp.bfloat16), dtype=jnp.float32)
    assert out.dtype == jnp.float32
    assert out[0, 0] == 4097.0


@pytest.mark.parametrize("tokens", [1, 300])
@pytest.mark.parametrize(
    ("spec", "inputs", "weight"),
    [
        ("te,fe->tf", (64,), (48, 64)),
        ("te,kgde->tkgd", (64,), (2, 3, 8, 64)),
        ("te,cfe->tcf", (64,), (2, 24, 64)),
        ("thd,ehd->te", (4, 16), (48, 4, 16)),
    ],
)
def test_products_of_every_shape(spec: str, inputs: tuple[int, ...], weight: tuple[int, ...], tokens: int) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(tokens, *inputs)).astype(np.float32), rng.normal(size=weight).astype(np.float32)
    out = jax.jit(functools.partial(project, spec))(x, w)
    np.testing.assert_allclose(out, np.einsum(spec, x, w, dtype=np.float64), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("spec", "inputs", "weight"), [("te,cfe->tcf", (64,), (2, 24, 64)), ("thd,ehd->te", (4, 16), (48, 4, 16))]
)
def test_a_cpu_reads_weights_as_they_lie(spec: str, inputs: tuple[int, ...], weight: tuple[int, ...]) -> None:
    """No program for few tokens makes another array of a weight's size."""
    shapes = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((2, *inputs), weight))
    program = jax.jit(functools.partial(project, spec)).lower(*shapes).compile()
    assert program.memory_analysis().temp_size_in_bytes < 4 * np.prod(weight) / 2


@pytest.mark.parametrize("tp", [1, 4])
def test_embedding_and_logits_over_a_split_vocabulary(tp: int) -> None:
    mesh, vocab = make_mesh(tp), 10
    table = np.zeros((12, 8), np.float32)  # padded to 12
    table[:vocab] = np.random.default_rng(0).normal(size=(vocab, 8))
    placed = jax.device_put(table, named_sharding(mesh, ("vocab", "embed")))
    tokens = np.array([0, 9, 3, 3, 6], np.int32)
    hidden = jax.jit(lambda t, w: embedding.embed(t, w, mesh))(tokens, placed)
    np.testing.assert_array_equal(hidden, table[tokens])
    norm = np.linspace(0.5, 2, 8, dtype=np.float32)
    scores = jax.jit(lambda h, w: embedding.logits(h, (norm, 1e-6), w, None, vocab, mesh))(hidden, placed)
    assert scores.shape == (5, vocab)
    normed = hidden / np.sqrt(np.square(hidden).mean(1, keepdims=True) + 1e-6) * norm
    np.testing.assert_allclose(scores, normed @ table[:vocab].T, rtol=1e-5, atol=1e-5)
    assert scores.sharding.is_fully_replicated
