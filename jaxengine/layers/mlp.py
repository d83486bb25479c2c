"""The gated feed-forward block (Shazeer, arXiv:2002.05202). Called by the models once a layer."""

from __future__ import annotations

from jax import Array

from jaxengine.layers.linear import project


def gated_mlp(
    x: Array,  # [T, E]
    norm: tuple[Array, float],  # weight [E] and epsilon of the RMS norm in front
    gate_up: Array,  # [2, F, E]: gate, then up
    down: Array,  # [E, F]
    activation: str,  # one of linear.ACTIVATIONS
    gate_up_bias: Array | None = None,  # [2, F]
    down_bias: Array | None = None,  # [E]
) -> Array:
    """x + down(activation(gate(norm(x))) · up(norm(x))) → [T, E]."""
    hidden = project("te,cfe->tcf", x, gate_up, gate_up_bias, norm=norm, activation=activation)
    return project("tf,ef->te", hidden, down, down_bias, residual=x)
