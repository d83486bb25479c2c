"""Gumbel noise of a row: a pure function of the request's seed, the token's position, and the token id.

Used by `sampling.py`. Threefry-2x32 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), keyed by
(seed, position) and counting over the vocabulary: no state, no dependence on the batch, on its size, or on the
sharding.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def gumbel(seed: Array, position: Array, size: int, stream: int = 0) -> Array:
    """[S] integers of 32 bits → [S, size] float32 of standard Gumbel noise, finite. Streams are independent."""
    half = -(-size // 2)
    key = seed.astype(jnp.uint32)[:, None], position.astype(jnp.uint32)[:, None]
    first, second = threefry(key, (jnp.arange(half, dtype=jnp.uint32)[None], jnp.uint32(stream)))
    return jnp.concatenate([_gumbel(first), _gumbel(second)], axis=1)[:, :size]


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


def _gumbel(bits: Array) -> Array:
    """uint32 → float32. Small uniforms make large noise, where float32 is densest: the upper tail reaches 22.9."""
    uniform = jnp.minimum(
        (bits.astype(jnp.float32) + 0.5) * 2.0**-32, 1.0 - 2.0**-24
    )  # in (0, 1): both logs are finite
    return -jnp.log(-jnp.log1p(-uniform))
