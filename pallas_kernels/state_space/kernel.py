"""One step of Mamba 2's recurrence for every row, as a Pallas kernel (Triton lowering): each state is read and written
once, which is all that the step costs.

A program takes some of the dimensions of one head of a row: they do not meet one another.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pltriton

from pallas_kernels import backend
from pallas_kernels.state_space.tuning import DIMENSIONS, NUM_WARPS


def update(xbc: Array, dt: Array, a: Array, d: Array, state: Array, slot: Array, starts: Array) -> tuple[Array, Array]:
    """xbc: [S, G, R·P + 2N], dt: [S, H], a, d: [H], state: [slots + 1, H, P, N], slot, starts: [S] → outputs
    [S, H, P] in xbc's dtype, and the states. Rows of the scratch slot give anything finite."""
    S, groups, _ = xbc.shape
    slots, H, P, N = state.shape
    dims = min(DIMENSIONS, pl.next_power_of_2(P))
    out, states = pl.pallas_call(
        functools.partial(_kernel, heads=H, shared=H // groups, scratch=slots - 1, P=P, N=N, dims=dims),
        grid=(S, H, pl.cdiv(P, dims)),
        out_shape=(
            jax.ShapeDtypeStruct((S * H, P), xbc.dtype),
            jax.ShapeDtypeStruct((slots * H * P, N), state.dtype),
        ),
        input_output_aliases={0: 1},
        compiler_params=pltriton.CompilerParams(num_warps=NUM_WARPS, num_stages=1),
        interpret=backend.interpret(),
        name="state_space_update",
    )(state.reshape(-1, N), xbc, dt, a, d, slot, starts.astype(jnp.int32))
    return out.reshape(S, H, P), states.reshape(state.shape)


def _kernel(  # type: ignore[no-untyped-def]
    _, xbc_ref, dt_ref, a_ref, d_ref, slot_ref, starts_ref, out_ref, state_ref,
    *, heads: int, shared: int, scratch: int, P: int, N: int, dims: int,
):  # fmt: skip
    s, h, part = (pl.program_id(axis) for axis in range(3))
    dim, column = part * dims + jnp.arange(dims), jnp.arange(pl.next_power_of_2(N))
    slot = slot_ref[s]
    live = slot != scratch
    shape = (dims, column.shape[0])
    # Masked places point past the end: the interpreter writes old values back to them.
    inside = jnp.broadcast_to(dim[:, None] < P, shape) & jnp.broadcast_to(column[None, :] < N, shape)
    rows = jnp.broadcast_to((slot * heads + h) * P + dim[:, None], shape)
    columns = jnp.broadcast_to(column[None, :], shape)
    state = pltriton.load(state_ref.at[rows, columns], mask=inside & live & (starts_ref[s] == 0), other=0.0)

    def read(feature: Array, mask: Array) -> Array:
        return pltriton.load(xbc_ref.at[s, h // shared, feature], mask=mask, other=0.0).astype(state.dtype)

    x = read(h % shared * P + dim, dim < P)
    b, c = (read(shared * P + start + column, column < N) for start in (0, N))
    place = jnp.full((dims,), s * heads + h)
    dt = dt_ref[s, h].astype(state.dtype)
    state = state * jnp.exp(dt * a_ref[h].astype(state.dtype)) + (dt * x)[:, None] * b[None, :]
    out = jnp.sum(state * c[None, :], axis=1) + x * d_ref[h].astype(state.dtype)
    pltriton.store(out_ref.at[place, dim], out.astype(out_ref.dtype), mask=dim < P)
    end = jnp.where(inside & live, rows, state_ref.shape[0])
    pltriton.store(state_ref.at[end, columns], state.astype(state_ref.dtype), mask=inside & live)
