"""Mamba 2's recurrence on rows of many tokens, as one Pallas kernel (Triton lowering).

A program goes through a row chunk by chunk, with some of the dimensions of one head: the state stays in its registers
from the row's first token to its last. What it computes is chunked.py's.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pltriton

from pallas_kernels import backend
from pallas_kernels.state_space.tuning import CHUNK, CHUNK_DIMENSIONS, CHUNK_WARPS


def state_space(
    xbc: Array, dt: Array, a: Array, d: Array, state: Array, slot: Array, query_start: Array, starts: Array
) -> tuple[Array, Array]:
    """See the package, but rows of one token give zeros and keep their state. → outputs in xbc's dtype."""
    T, groups, F = xbc.shape
    slots, H, P, N = state.shape
    dims = min(CHUNK_DIMENSIONS, pl.next_power_of_2(P))
    out, states = pl.pallas_call(
        functools.partial(_kernel, groups=groups, heads=H, P=P, N=N, dims=dims),
        grid=(slot.shape[0], H, pl.cdiv(P, dims)),
        out_shape=(
            jax.ShapeDtypeStruct((T * H, P), xbc.dtype),
            jax.ShapeDtypeStruct((slots * H * P, N), state.dtype),
        ),
        input_output_aliases={0: 0, 1: 1},
        compiler_params=pltriton.CompilerParams(num_warps=CHUNK_WARPS, num_stages=1),
        interpret=backend.interpret(),
        name="state_space_prefill",
    )(
        jnp.zeros((T * H, P), xbc.dtype), state.reshape(-1, N), xbc.reshape(T * groups, F), dt.reshape(-1), a, d, slot,
        query_start, starts.astype(jnp.int32),
    )  # fmt: skip
    return out.reshape(T, H, P), states.reshape(state.shape)


def _dot(a: Array, b: Array) -> Array:
    """Of float32, by three products of TF32 where there are tensor cores; of less as it is."""
    exact: Any = lax.Precision.HIGHEST if backend.interpret() else lax.DotAlgorithmPreset.TF32_TF32_F32_X3
    precision = exact if a.dtype == jnp.float32 else None
    return lax.dot(a, b, precision=precision, preferred_element_type=jnp.float32)


def _kernel(  # type: ignore[no-untyped-def]
    _zeros, _states, xbc_ref, dt_ref, a_ref, d_ref, slot_ref, query_start_ref, starts_ref, out_ref, state_ref,
    *, groups: int, heads: int, P: int, N: int, dims: int,
):  # fmt: skip
    s, h, part = (pl.program_id(axis) for axis in range(3))
    begin, end = query_start_ref[s], query_start_ref[s + 1]
    dim, column = part * dims + jnp.arange(dims), jnp.arange(pl.next_power_of_2(N))
    shared = heads // groups
    i, j = (lax.broadcasted_iota(jnp.int32, (CHUNK, CHUNK), axis) for axis in (0, 1))
    rate, passing = a_ref[h].astype(jnp.float32), d_ref[h].astype(jnp.float32)

    def rows(token: Array, live: Array, feature: Array, inside: Array) -> Array:
        """[tokens, features] of this head or its group, zeros outside."""
        shape = (token.shape[0], feature.shape[0])
        at = jnp.broadcast_to((token * groups + h // shared)[:, None], shape), jnp.broadcast_to(feature[None], shape)
        mask = jnp.broadcast_to(live[:, None], shape) & jnp.broadcast_to(inside[None], shape)
        return pltriton.load(xbc_ref.at[at], mask=mask, other=0.0)

    def chunk(n: Array, state: Array) -> Array:  # state: [N, dims]
        token = begin + n * CHUNK + jnp.arange(CHUNK)
        live = token < end
        b, c = (rows(token, live, shared * P + start + column, column < N) for start in (0, N))
        x = rows(token, live, h % shared * P + dim, dim < P).astype(jnp.float32)
        dt = pltriton.load(dt_ref.at[token * heads + h], mask=live, other=0.0).astype(jnp.float32)
        so_far = jnp.sum(jnp.where(j <= i, (dt * rate)[None, :], 0.0), axis=1)
        since = jnp.exp(jnp.where(j <= i, so_far[:, None] - so_far[None, :], -jnp.inf)) * dt[None, :]
        out = _dot(_dot(c, b.T) * since, x) + x * passing
        out = out + _dot(c.astype(jnp.float32), state) * jnp.exp(so_far)[:, None]
        shape = (CHUNK, dims)
        wanted = jnp.broadcast_to(live[:, None], shape) & jnp.broadcast_to(dim[None] < P, shape)
        at = jnp.where(live, token * heads + h, out_ref.shape[0])  # the interpreter writes old values back
        places = jnp.broadcast_to(at[:, None], shape), jnp.broadcast_to(dim[None], shape)
        pltriton.store(out_ref.at[places], out.astype(out_ref.dtype), mask=wanted)
        total = jnp.sum(dt * rate)
        incoming = x * (jnp.exp(total - so_far) * dt)[:, None]
        return state * jnp.exp(total) + _dot(b.astype(jnp.float32).T, incoming)

    @pl.when(end - begin > 1)
    def long_row() -> None:
        shape = (column.shape[0], dims)
        inside = jnp.broadcast_to(column[:, None] < N, shape) & jnp.broadcast_to(dim[None] < P, shape)
        at = jnp.where(inside, (slot_ref[s] * heads + h) * P + dim[None], state_ref.shape[0])
        places = at, jnp.broadcast_to(column[:, None], shape)
        old = pltriton.load(state_ref.at[places], mask=inside & (starts_ref[s] == 0), other=0.0)
        state = lax.fori_loop(0, pl.cdiv(end - begin, CHUNK), chunk, old.astype(jnp.float32))
        pltriton.store(state_ref.at[places], state.astype(state_ref.dtype), mask=inside)
