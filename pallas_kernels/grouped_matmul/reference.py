"""The specification in plain jnp, and the implementation on a CPU: a loop over tiles. Called by the package."""

import jax.numpy as jnp
from jax import Array, lax

from pallas_kernels.grouped_matmul.activation import Activation, gated
from pallas_kernels.grouped_matmul.tiles import is_expert, tiles_by_sorting

ROWS = 64  # tokens of an expert that share one reading of its weights, at most


def mlp(
    x: Array,  # [T, E]
    experts: Array,  # [T, k]
    weights: Array,  # [T, k]
    gate_up: Array,  # [X, 2, F, E]
    down: Array,  # [X, E, F]
    gate_up_bias: Array | None,  # [X, 2, F]
    down_bias: Array | None,  # [X, E]
    *,
    activation: Activation,
    weigh_inputs: bool,
) -> Array:  # [T, E]
    """See the package."""
    (T, E), (X, _, F, _), k = x.shape, gate_up.shape, experts.shape[1]
    M, share = T * k, weights.reshape(-1).astype(jnp.float32)
    rows = min(ROWS, -(-M // X)) if T > 1 else 1
    order, table = tiles_by_sorting(experts.reshape(-1), X, rows)

    def tile(i: Array, results: Array) -> Array:
        expert, first, length = table[i]
        lane = jnp.arange(rows)
        pair = order[jnp.minimum(first + lane, M - 1)]
        weight = share[pair, None]
        both = _product(x[pair // k], gate_up[expert].reshape(2 * F, E))
        both = both * weight if weigh_inputs else both
        both = both if gate_up_bias is None else both + gate_up_bias[expert].reshape(-1)
        hidden = gated(both[:, :F], both[:, F:], activation).astype(x.dtype)
        out = _product(hidden, down[expert])
        out = out if down_bias is None else out + down_bias[expert]
        out = out if weigh_inputs else out * weight
        return results.at[jnp.where(lane < length, pair, M)].set(out.astype(x.dtype), mode="drop")

    live = (table[:, 2] > 0).sum()
    results = lax.fori_loop(0, live, tile, jnp.zeros((M, E), x.dtype))
    return summed(results, is_expert(experts, X))


def summed(results: Array, live: Array) -> Array:
    """results: [T·k, E] of each pair, live: [T, k] → [T, E], always summed in the same order."""
    by_token = jnp.where(live[:, :, None], results.reshape(*live.shape, -1), 0)
    return by_token.sum(1, dtype=jnp.float32).astype(results.dtype)


def _product(x: Array, weight: Array) -> Array:
    """x: [rows, inputs], weight: [outputs, inputs] → [rows, outputs] float32."""
    precision = lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    return lax.dot_general(x, weight, (((1,), (1,)), ((), ())), precision=precision, preferred_element_type=jnp.float32)
