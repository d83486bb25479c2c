"""The feed-forward of a mixture of experts: each token through the few experts that its router chose.

The one entry of the op: `grouped_mlp`. Called by jaxengine/layers/experts.py where arrays are whole on their device:
on one device, or inside shard_map (shapes are per shard). Runs one_token.py on a GPU for a token alone, kernel.py for
more, else reference.py. Only experts that a token chose are read, and nothing is added in an order that depends on
other tokens.
"""

from jax import Array

from pallas_kernels.backend import Backend, resolve
from pallas_kernels.grouped_matmul import kernel, one_token, reference
from pallas_kernels.grouped_matmul.activation import Activation, ClampedSwiglu, is_known

__all__ = ["Activation", "ClampedSwiglu", "grouped_mlp"]


def grouped_mlp(
    x: Array,  # [T, E]
    experts: Array,  # [T, k] int32; outside [0, X): no expert, adds nothing and reads nothing
    weights: Array,  # [T, k] float32
    gate_up: Array,  # [X, 2, F, E]: gate, then up
    down: Array,  # [X, E, F]
    *,
    gate_up_bias: Array | None = None,  # [X, 2, F]
    down_bias: Array | None = None,  # [X, E]
    activation: Activation = "silu",
    weigh_inputs: bool = False,  # each expert sees its weight times x, and its result is added as it is
    backend: Backend | None = None,
) -> Array:  # [T, E]
    """Sum over a token's k experts of weight · down(activation(gate(x)) · up(x)).

    Sums are taken in float32; the activated product, each expert's weighted result (not of a token alone in CUDA) and
    their sum round to x's dtype.
    """
    (T, E), (X, two, F, _) = x.shape, gate_up.shape
    if experts.shape != weights.shape or experts.shape[0] != T:
        raise ValueError(f"x {x.shape} wants experts and weights [{T}, k], got {experts.shape} and {weights.shape}")
    if (two, gate_up.shape[3]) != (2, E) or down.shape != (X, E, F):
        raise ValueError(
            f"x {x.shape} wants gate_up [X, 2, F, {E}] and down [X, {E}, F], got {gate_up.shape} and {down.shape}"
        )
    if not is_known(activation):
        raise ValueError(f"unknown activation {activation!r}")
    biased = gate_up_bias is not None or down_bias is not None
    alone = one_token.supports(x, experts, gate_up, activation=activation, weigh_inputs=weigh_inputs, biased=biased)
    cuda: tuple[Backend, ...] = ("cuda",) if alone else ()
    chosen = resolve(backend, (*cuda, "pallas", "reference"), "grouped_matmul")
    if chosen == "cuda":
        return one_token.mlp(x, experts, weights, gate_up, down)
    run = kernel.mlp if chosen == "pallas" else reference.mlp
    return run(
        x, experts, weights, gate_up, down, gate_up_bias, down_bias, activation=activation,
        weigh_inputs=weigh_inputs,
    )  # fmt: skip
