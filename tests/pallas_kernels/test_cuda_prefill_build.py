"""What of the CUDA prefill kernel needs no GPU: its plan of tiles, and that it compiles for Hopper without spills."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.cuda import build
from pallas_kernels.paged_attention import cuda_prefill
from tests.pallas_kernels.hopper_build import compile_without_spills

BLOCK, TILE = 128, 42
CASES = [
    ([1, 1, 300, 7, 0], [1300, 1, 300, 515, 0], 2),
    ([13] * 30, [13 + 17 * i for i in range(30)], 0),
    ([40, 100, 9], [20_000, 5000, 9], 0),  # long ones, that are worth splitting
    ([1], [9], 1),
]


@pytest.mark.parametrize("split_places", [0, 33])
@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize(("query_lens", "contexts", "num_decode"), CASES)
def test_plan_covers_each_token_and_key_once(
    query_lens: list[int], contexts: list[int], num_decode: int, window: int | None, split_places: int
) -> None:
    start = np.append(0, np.cumsum(query_lens)).astype(np.int32)
    tokens = int(start[-1]) + 37
    arguments = (
        jnp.asarray(start),
        jnp.asarray(contexts, jnp.int32),
        jnp.int32(num_decode),
        tokens,
        TILE,
        BLOCK,
        window,
    )
    places = np.asarray(cuda_prefill.plan(*arguments, 16.5, split_places))
    live = places[places[:, 2] > 0]
    assert (places[len(live) :, 2] == 0).all()  # the kernel stops at the first empty place
    in_parts = live[:, 7] > 1
    assert in_parts[: in_parts.sum()].all()
    assert in_parts.sum() <= split_places
    if split_places and window is None and max(contexts) > 10_000:
        assert in_parts.any()

    found = np.full((tokens, 2), -1)  # row, and keys that a token sees without a window
    at = 0
    while at < len(live):
        row, token, size, keys, _, _, part, parts = live[at]
        tile = live[at : at + parts]
        assert part == 0
        assert (tile[:, :4] == live[at, :4]).all()
        assert (tile[:, 6] == np.arange(parts)).all()
        assert 0 < size <= TILE
        assert (found[token : token + size] == -1).all()
        found[token : token + size, 0] = row
        found[token : token + size, 1] = np.arange(keys - size, keys) + 1 if keys else 0
        lowest = 0 if window is None else max(keys - size - window + 1, 0) // BLOCK
        assert (tile[0, 4], tile[-1, 5]) == (lowest, -(-keys // BLOCK))
        assert (tile[1:, 4] == tile[:-1, 5]).all()
        assert (tile[:, 5] > tile[:, 4]).all() or keys == 0
        at += parts
    want = np.full((tokens, 2), -1)
    for row in range(num_decode, len(query_lens)):
        of_row = slice(start[row], start[row + 1])
        want[of_row, 0] = row
        want[of_row, 1] = np.arange(contexts[row] - query_lens[row], contexts[row]) + 1
    want[start[-1] :] = len(query_lens), 0  # nobody's: a row without keys
    np.testing.assert_array_equal(found, want)


@pytest.mark.skipif(not build.available(), reason="no nvcc")
@pytest.mark.parametrize(("head_dim", "group"), [(128, 4), (64, 1), (256, 8)])
def test_no_spills(head_dim: int, group: int, tmp_path: Path) -> None:
    blocks = cuda_prefill.blocks(head_dim)
    constants = cuda_prefill.constants("bfloat16", head_dim, group, 16, blocks)
    (told,) = compile_without_spills([("paged_attention_prefill", constants)], tmp_path)
    assert told.count("bytes spill stores") == 2  # two kernels
    assert "serialized" not in told  # products would wait for each other
