"""The plan of the CUDA decode kernel: its chunks hold every key that a tile sees, once."""

import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.paged_attention import cuda, paged_attention
from pallas_kernels.paged_attention.decode import Tiles
from pallas_kernels.paged_attention.scoring import Scoring
from pallas_kernels.paged_attention.tuning import ChunkBlocks
from tests.pallas_kernels.ragged import make_batch

BLOCKS = ChunkBlocks(warps=4, stages=2, per_sm=2, least=64)


@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize(
    "contexts",
    [
        [1],
        [5000],
        [0, 0],
        [1024] * 40,
        [8192] * 32,
        [32000, *[1000] * 31],
        [63, 64, 65, 0, 4000, 1, 129, 2000],
        [7] * 300,
    ],
)
def test_every_key_is_in_one_chunk(contexts: list[int], window: int | None) -> None:
    n, share = len(contexts), 33
    rng = np.random.default_rng(n)
    length = rng.integers(0, 4, n)
    length = np.where(np.arange(n) == 0, 1, np.minimum(length, contexts))
    tiles = Tiles(*(jnp.asarray(x, jnp.int32) for x in (rng.permutation(n), np.cumsum(length), length, contexts)))
    chunks, splits = (np.asarray(x) for x in cuda._cut(tiles, share, Scoring(1.0, window, None), BLOCKS))
    live = chunks[chunks[:, 2] > 0]
    at = 0
    of_several = []
    for row, token, size, context in zip(*map(np.asarray, tiles), strict=True):
        if size == 0:
            continue
        lowest = 0 if window is None else max(context - size + 1 - window, 0)
        mine = 0
        begin = lowest // cuda.KEYS * cuda.KEYS
        while mine == 0 or begin < context:
            assert (live[at, :5] == (row, token, size, context, begin)).all()
            assert live[at, 5] == context or (live[at, 5] - begin) % (cuda.KEYS * BLOCKS.warps) == 0
            begin, at, mine = live[at, 5], at + 1, mine + 1
        assert (live[at - mine : at, 6] == (mine == 1)).all()
        if mine > 1:
            of_several.append((token, size, at - mine, mine))
    assert at == len(live)
    np.testing.assert_array_equal(splits[splits[:, 3] > 0], np.reshape(of_several, (-1, 4)))
    assert len(chunks) == n + share
    even = max(BLOCKS.least, sum(live[:, 5] - live[:, 4]) / share)
    assert (live[:, 5] - live[:, 4]).max() <= 1.25 * even + cuda.KEYS * BLOCKS.warps


def test_what_it_does_not_take_is_refused_by_name() -> None:
    batch = make_batch([1, 1], [20, 5], head_dim=32)
    with pytest.raises(ValueError, match="paged_attention has no 'cuda' implementation here; it has "):
        paged_attention(*batch.arrays(jnp.bfloat16), decode_only=True, scale=1.0, backend="cuda")
