"""The convolution of one token of every row as a Pallas kernel (Triton lowering): what a row remembers is read once and
written one place on."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pltriton

from pallas_kernels import backend
from pallas_kernels.causal_conv.tuning import CHANNELS, NUM_WARPS


def update(
    x: Array, state: Array, weight: Array, bias: Array | None, slot: Array, starts: Array, silu: bool
) -> tuple[Array, Array]:
    """x: [S, ..., C'], state: [slots + 1, W - 1, ..., C], weight: [..., C, W], bias: [..., C] → [S, ..., C] and the
    states."""
    S, slots, W, channels = x.shape[0], state.shape[0], weight.shape[-1], state.shape[2:]
    C, last = math.prod(channels), (channels[-1], x.shape[-1])
    block = min(CHANNELS, pl.next_power_of_2(C))
    out, states = pl.pallas_call(
        functools.partial(
            _kernel, scratch=slots - 1, W=W, C=C, last=last, block=block, silu=silu, biased=bias is not None
        ),
        grid=(S, pl.cdiv(C, block)),
        out_shape=(
            jax.ShapeDtypeStruct((S, C), x.dtype),
            jax.ShapeDtypeStruct((slots * (W - 1), C), state.dtype),
        ),
        input_output_aliases={0: 1},
        compiler_params=pltriton.CompilerParams(num_warps=NUM_WARPS, num_stages=1),
        interpret=backend.interpret(),
        name="causal_conv_update",
    )(
        state.reshape(-1, C), x.reshape(S, -1), weight.reshape(C, W), slot, starts.astype(jnp.int32),
        *(() if bias is None else (bias.reshape(C),)),
    )  # fmt: skip
    return out.reshape(S, *channels), states.reshape(state.shape)


def _kernel(  # type: ignore[no-untyped-def]
    _, x_ref, weight_ref, slot_ref, starts_ref, *refs, scratch: int, W: int, C: int, last: tuple[int, int], block: int,
    silu: bool, biased: bool,
):  # fmt: skip
    *bias_ref, out_ref, state_ref = refs
    s, channel = pl.program_id(0), pl.program_id(1) * block + jnp.arange(block)
    inside = channel < C
    slot = slot_ref[s]
    live = inside & (slot != scratch)
    old = live & (starts_ref[s] == 0)

    def tap(i: int) -> Array:
        weight = pltriton.load(weight_ref.at[channel, jnp.full((block,), i)], mask=inside, other=0.0)
        return weight.astype(jnp.float32)

    def place(i: int, mask: Array) -> Array:
        """Masked places point past the end: the interpreter writes old values back to them."""
        return jnp.where(mask, slot * (W - 1) + i, state_ref.shape[0])

    feature = channel // last[0] * last[1] + channel % last[0]
    x = pltriton.load(x_ref.at[jnp.full((block,), s), feature], mask=inside, other=0.0)
    total = x.astype(jnp.float32) * tap(W - 1)
    remembered = [
        pltriton.load(state_ref.at[place(i, old), channel], mask=old, other=0.0).astype(x.dtype) for i in range(W - 1)
    ]
    for i, value in enumerate(remembered):
        total += value.astype(jnp.float32) * tap(i)
    if biased:
        total += pltriton.load(bias_ref[0].at[channel], mask=inside, other=0.0).astype(jnp.float32)
    total = total * jax.nn.sigmoid(total) if silu else total
    pltriton.store(out_ref.at[jnp.full((block,), s), channel], total.astype(out_ref.dtype), mask=inside)
    for i, value in enumerate([*remembered[1:], x]):
        pltriton.store(state_ref.at[place(i, live), channel], value.astype(state_ref.dtype), mask=live)
