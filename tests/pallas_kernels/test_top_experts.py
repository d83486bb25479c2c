"""The choice of experts: the kernel (interpreted) like the reference, and the reference like sorting by hand."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.top_experts import Rule, top_experts

RULES = {
    "softmax": Rule(3),
    "softmax, renormalised": Rule(8, renormalise=True),
    "sigmoid": Rule(3, "sigmoid", renormalise=True, scale=2.5),
    "top, softmax": Rule(3, "top_softmax"),
    "top, sigmoid": Rule(1, "top_sigmoid"),
    "two tops, sigmoid": Rule(2, "top_sigmoid", scale=0.5),
}


@pytest.mark.parametrize("X", [8, 60])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("name", RULES)
def test_like_the_reference(name: str, corrected: bool, dtype: jnp.dtype, X: int) -> None:
    """bfloat16 brings equal logits: the first of them is the better one."""
    rule, random = RULES[name], np.random.default_rng(0)
    logits = jnp.asarray(3 * random.standard_normal((5, X)), dtype)
    correction = None
    if corrected and not rule.scoring.startswith("top"):
        correction = jnp.asarray(random.standard_normal(X), jnp.float32)
    got, want = (top_experts(logits, correction, rule, backend=backend) for backend in ("pallas", "reference"))
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_allclose(got[1], want[1], rtol=1e-6)


@pytest.mark.parametrize("name", RULES)
def test_reference(name: str) -> None:
    rule, logits = RULES[name], np.random.default_rng(1).standard_normal((4, 16)).astype(np.float32)
    experts, weights = top_experts(jnp.asarray(logits), None, rule, backend="reference")
    order = np.argsort(-logits, axis=1)[:, : rule.top_k]
    np.testing.assert_array_equal(experts, order)
    scores = 1 / (1 + np.exp(-logits)) if "sigmoid" in rule.scoring else np.exp(logits)
    best = np.take_along_axis(scores, order, axis=1)
    if rule.renormalise or rule.scoring == "top_softmax":
        best = best / best.sum(1, keepdims=True)
    elif rule.scoring == "softmax":
        best = best / scores.sum(1, keepdims=True)
    np.testing.assert_allclose(weights, best * rule.scale, rtol=1e-5)


def test_groups() -> None:
    """Group 1 has the best expert, groups 0 and 2 the best two together."""
    logits = jnp.asarray([[2.0, 2.0, 9.0, -9.0, 2.1, 1.9, 0.0, 0.0]])
    rule = Rule(2, "softmax", groups=4, top_groups=1)
    assert top_experts(logits, None, rule)[0].tolist() == [[2, 3]]
    assert top_experts(logits / 9, None, dataclasses.replace(rule, scoring="sigmoid"))[0].tolist() == [[0, 1]]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="4 experts in 1 groups do not fit"):
        top_experts(jnp.ones((1, 4)), None, Rule(5))
    with pytest.raises(ValueError, match="4 experts in 3 groups do not fit"):
        top_experts(jnp.ones((1, 4)), None, Rule(2, groups=3))
