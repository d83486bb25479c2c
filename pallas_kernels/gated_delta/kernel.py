"""One step of the gated delta rule for every row, as a Pallas kernel (Triton lowering): each state is read and written
once, which is all that the step costs.

A program takes some of the value dimensions of one head of a row: they do not meet one another.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pltriton

from pallas_kernels import backend
from pallas_kernels.gated_delta.reference import EPS
from pallas_kernels.gated_delta.tuning import NUM_WARPS, VALUES


def update(qkv: Array, decay: Array, beta: Array, state: Array, slot: Array, starts: Array) -> tuple[Array, Array]:
    """qkv: [S, H', 2K + R·V], decay, beta: [S, H], state: [slots + 1, H, K, V], slot, starts: [S] → outputs [S, H, V]
    in qkv's dtype, and the states. Rows of the scratch slot give anything finite."""
    S, keys, _ = qkv.shape
    slots, H, K, V = state.shape
    values = min(VALUES, pl.next_power_of_2(V))
    out, states = pl.pallas_call(
        functools.partial(_kernel, heads=H, shared=H // keys, scratch=slots - 1, K=K, V=V, values=values),
        grid=(S, H, pl.cdiv(V, values)),
        out_shape=(
            jax.ShapeDtypeStruct((S * H, V), qkv.dtype),
            jax.ShapeDtypeStruct((slots * H * K, V), state.dtype),
        ),
        input_output_aliases={0: 1},
        compiler_params=pltriton.CompilerParams(num_warps=NUM_WARPS, num_stages=1),
        interpret=backend.interpret(),
        name="gated_delta_update",
    )(state.reshape(-1, V), qkv, decay, beta, slot, starts.astype(jnp.int32))
    return out.reshape(S, H, V), states.reshape(state.shape)


def _kernel(  # type: ignore[no-untyped-def]
    _, qkv_ref, decay_ref, beta_ref, slot_ref, starts_ref, out_ref, state_ref,
    *, heads: int, shared: int, scratch: int, K: int, V: int, values: int,
):  # fmt: skip
    s, h, part = (pl.program_id(axis) for axis in range(3))
    key, value = jnp.arange(pl.next_power_of_2(K)), part * values + jnp.arange(values)
    slot = slot_ref[s]
    live = slot != scratch
    shape = (key.shape[0], values)
    # Masked places point past the end: the interpreter writes old values back to them.
    inside = jnp.broadcast_to(key[:, None] < K, shape) & jnp.broadcast_to(value[None, :] < V, shape)
    rows = jnp.broadcast_to((slot * heads + h) * K + key[:, None], shape)
    columns = jnp.broadcast_to(value[None, :], shape)
    old = inside & live & (starts_ref[s] == 0)
    state = pltriton.load(state_ref.at[rows, columns], mask=old, other=0.0)

    def read(feature: Array, mask: Array) -> Array:
        return pltriton.load(qkv_ref.at[s, h // shared, feature], mask=mask, other=0.0).astype(state.dtype)

    q, k = (read(start + key, key < K) for start in (0, K))
    q, k = (x * lax.rsqrt(jnp.sum(x * x) + EPS) for x in (q, k))
    q = q * K**-0.5
    v = read(2 * K + h % shared * V + value, value < V)
    place = jnp.full((values,), s * heads + h)
    state = state * jnp.exp(decay_ref[s, h].astype(state.dtype))
    change = (v - jnp.sum(state * k[:, None], axis=0)) * beta_ref[s, h].astype(state.dtype)
    state = state + k[:, None] * change[None, :]
    out = jnp.sum(state * q[:, None], axis=0).astype(out_ref.dtype)
    pltriton.store(out_ref.at[place, value], out, mask=value < V)
    end = jnp.where(inside & live, rows, state_ref.shape[0])
    pltriton.store(state_ref.at[end, columns], state.astype(state_ref.dtype), mask=inside & live)
