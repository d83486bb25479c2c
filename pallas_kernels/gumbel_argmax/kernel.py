"""gumbel_argmax as a Pallas kernel (Triton lowering): logits are read once, noise never leaves the registers.

A program takes a stretch of one row, in both halves of the vocabulary at once so that no random word is thrown away;
greedy rows make no noise. XLA then picks the best of a row's stretches.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pltriton

from pallas_kernels import backend
from pallas_kernels.gumbel_argmax.reference import from_bits, inverse, threefry
from pallas_kernels.gumbel_argmax.tuning import BLOCK, NUM_WARPS, STRETCHES


def gumbel_argmax(logits: Array, temperature: Array, keep: Array | None, seed: Array, position: Array) -> Array:
    """See the package."""
    S, V = logits.shape
    half = pl.cdiv(V, 2)
    block = min(BLOCK, pl.next_power_of_2(half))
    blocks = pl.cdiv(pl.cdiv(half, block), STRETCHES)  # of one stretch
    stretches = pl.cdiv(half, blocks * block)
    settings = [temperature, inverse(temperature), seed, position, *([] if keep is None else [keep])]
    row = pl.BlockSpec((S,), lambda s, c: (0,))
    whole = pl.BlockSpec((S, stretches), lambda s, c: (0, 0))
    best, token = pl.pallas_call(
        functools.partial(_kernel, V=V, half=half, block=block, blocks=blocks),
        grid=(S, stretches),
        in_specs=[pl.BlockSpec((None, V), lambda s, c: (s, 0)), *[row] * len(settings)],
        out_specs=[whole, whole],
        out_shape=[jax.ShapeDtypeStruct((S, stretches), t) for t in (jnp.float32, jnp.int32)],
        compiler_params=pltriton.CompilerParams(num_warps=NUM_WARPS, num_stages=2),
        interpret=backend.interpret(),
        name="gumbel_argmax",
    )(logits, *settings)
    return jnp.where(best == best.max(axis=1, keepdims=True), token, V - 1).min(axis=1)


def _kernel(x_ref, temperature_ref, inverse_ref, seed_ref, position_ref, *refs, V, half, block, blocks):  # type: ignore[no-untyped-def]
    s, c = pl.program_id(0), pl.program_id(1)
    *keep_ref, best_ref, token_ref = refs
    hot, scale = temperature_ref[s] > 0.0, inverse_ref[s]
    key = seed_ref[s].astype(jnp.uint32), position_ref[s].astype(jnp.uint32)

    def read(at: Array, end: int) -> Array:
        x = pltriton.load(x_ref.at[pl.ds(at, block)], mask=at + jnp.arange(block) < end, other=-jnp.inf)
        return jnp.where(x >= keep_ref[0][s], x, -jnp.inf) if keep_ref else x

    def body(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        best, token = carry
        start = (c * blocks + i) * block
        at = start + jnp.arange(block)
        halves = read(start, half), read(start + half, V)

        def noisy() -> tuple[Array, Array]:
            words = threefry(key, (at.astype(jnp.uint32), jnp.zeros((block,), jnp.uint32)))
            return halves[0] * scale + from_bits(words[0]), halves[1] * scale + from_bits(words[1])

        for scores, ids in zip(lax.cond(hot, noisy, lambda: halves), (at, at + half), strict=True):
            token = jnp.where(scores > best, ids, token)
            best = jnp.maximum(scores, best)
        return best, token

    start = jnp.full((block,), -jnp.inf), jnp.full((block,), V - 1, jnp.int32)
    best, token = lax.fori_loop(0, blocks, body, start)
    most = jnp.max(best)
    best_ref[s, c] = most
    token_ref[s, c] = jnp.min(jnp.where(best == most, token, V - 1))
