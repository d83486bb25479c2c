"""The specification in plain jnp, and the noise: Threefry-2x32 keyed by (seed, position).

Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011. Token i of the first half of the vocabulary
takes the first word of block i, token i of the second half the second word of the same block.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def gumbel_argmax(logits: Array, temperature: Array, keep: Array | None, seed: Array, position: Array) -> Array:
    """See the package. Two vectorised passes: XLA's own argmax is scalar code on CPUs. Greedy batches make no noise."""
    V = logits.shape[1]
    scores = logits if keep is None else jnp.where(logits >= keep[:, None], logits, -jnp.inf)

    def noisy(scores: Array) -> Array:
        drawn = scores * inverse(temperature)[:, None] + gumbel(seed, position, V)
        return jnp.where(temperature[:, None] > 0, drawn, scores)

    scores = lax.cond((temperature > 0).any(), noisy, lambda scores: scores, scores)
    token = lax.broadcasted_iota(jnp.int32, scores.shape, 1)
    return jnp.where(scores == scores.max(axis=1, keepdims=True), token, V - 1).min(axis=1)


def inverse(temperature: Array) -> Array:
    """1 / temperature, 1 for greedy rows."""
    return 1.0 / jnp.where(temperature > 0, temperature, 1.0)


def gumbel(seed: Array, position: Array, size: int, stream: int = 0) -> Array:
    """[S] integers of 32 bits → [S, size] float32 of standard Gumbel noise, finite. Streams are independent."""
    half = -(-size // 2)
    counter = jnp.arange(half, dtype=jnp.uint32)[None], jnp.full((1, half), stream, jnp.uint32)
    first, second = threefry((seed.astype(jnp.uint32)[:, None], position.astype(jnp.uint32)[:, None]), counter)
    return jnp.concatenate([from_bits(first), from_bits(second)], axis=1)[:, :size]


def threefry(key: tuple[Array, Array], counter: tuple[Array, Array]) -> tuple[Array, Array]:
    """Threefry-2x32 with 20 rounds, elementwise over broadcast uint32 arrays."""
    keys = (*key, key[0] ^ key[1] ^ np.uint32(0x1BD11BDA))
    x, y = counter[0] + keys[0], counter[1] + keys[1]
    for group in range(5):
        for turn in ROTATIONS[group % 2]:
            x = x + y
            y = ((y << np.uint32(turn)) | (y >> np.uint32(32 - turn))) ^ x
        x = x + keys[(group + 1) % 3]
        y = y + keys[(group + 2) % 3] + np.uint32(group + 1)
    return x, y


def from_bits(bits: Array) -> Array:
    """uint32 → float32 Gumbel. Small uniforms make large noise, where float32 is densest: the tail reaches 22.9."""
    uniform = jnp.minimum(
        (bits.astype(jnp.float32) + 0.5) * 2.0**-32, 1.0 - 2.0**-24
    )  # in (0, 1): both logs are finite
    return -jnp.log(-jnp.log1p(-uniform))
