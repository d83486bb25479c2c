"""The gated feed-forward block (Shazeer, arXiv:2002.05202). Called by the models once a layer."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
from jax import Array

from jaxengine.layers.linear import project

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_pytorch_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
}


def gated_mlp(
    x: Array,  # [T, E]
    gate_up: Array,  # [2, F, E]: gate, then up
    down: Array,  # [E, F]
    activation: str,
    gate_up_bias: Array | None = None,  # [2, F]
    down_bias: Array | None = None,  # [E]
) -> Array:
    """down(activation(gate(x)) · up(x)) → [T, E]."""
    both = project("te,cfe->tcf", x, gate_up, gate_up_bias)
    return project("tf,ef->te", ACTIVATIONS[activation](both[:, 0]) * both[:, 1], down, down_bias)
