"""The decode kernels beside the prefill kernel: many rows may decode there, few do, and those few may be long."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl

from pallas_kernels.paged_attention import decode, paged_attention, pages_shape, tuning
from pallas_kernels.paged_attention.scoring import Scoring
from tests.pallas_kernels.ragged import make_batch, specification


def check(query_lens: list[int], contexts: list[int], tokens: int, window: int | None = None) -> None:
    static: dict[str, Any] = {"scale": 0.11, "decode_only": False, "window": window}
    batch = make_batch(query_lens, contexts, tokens=tokens)
    got = jax.jit(functools.partial(paged_attention, backend="pallas", **static))(*batch.arrays())
    np.testing.assert_allclose(got, specification(batch, **static), atol=2e-5, rtol=0)


@pytest.fixture
def _few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less of them than chunks, and than tokens to put together."""
    monkeypatch.setattr(tuning, "BESIDE_PROMPTS", 6)
    monkeypatch.setattr(tuning, "MERGES", 8)


@pytest.mark.usefixtures("_few_programs")
@pytest.mark.parametrize("window", [None, 200])
def test_a_program_takes_several_chunks_and_tokens_in_turn(window: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "FEW_TOKENS", 0)
    check([1] * 6 + [20, 0], [1, 1290, 300, 700, 16, 1000, 40, 0], 30, window)
    check([1, 0, 0], [1290, 0, 0], 9, window)
    check([9, 7, 0, 0], [300, 7, 0, 0], 17, window)


@pytest.mark.usefixtures("_few_programs")
def test_a_program_puts_several_tokens_of_tiles_together_in_turn() -> None:
    check([1, 9, 20, 0], [300, 700, 1290, 0], 40)


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Of the Pallas kernels that are traced, by their names."""
    found: dict[str, int] = {}
    call = pl.pallas_call

    def noted(*args: Any, grid: tuple[int, ...], name: str, **rest: Any) -> Any:
        found[name] = math.prod(grid)
        return call(*args, grid=grid, name=name, **rest)

    monkeypatch.setattr(pl, "pallas_call", noted)
    return found


def test_rows_that_might_decode_and_do_not_cost_few_programs(programs: dict[str, int]) -> None:
    """How many rows decode is known on the device alone, and each program that finds nothing to do takes its time."""
    tokens, rows = 1024, 512
    shapes = (tokens, 32, 128), pages_shape(4096, 16, 8, 128)
    ints = (rows, 2048), (rows + 1,), (rows,), ()
    arrays = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes]
    arrays += [jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ints]
    jax.eval_shape(functools.partial(paged_attention, backend="pallas", scale=1.0, decode_only=False), *arrays)
    assert programs["paged_attention_decode"] <= 1024
    assert programs["paged_attention_merge"] <= 2048


@pytest.mark.parametrize("contexts", [[32768], [32768, 32768], [32768, 100, 9000]])
def test_a_few_long_rows_are_split_among_many_as_they_are_alone(contexts: list[int]) -> None:
    """Into chunks enough to fill the device, and no more."""
    blocks, counts = tuning.decode_blocks(128, 2), []
    for rows in (len(contexts), 512):
        context_len = jnp.asarray(contexts + [0] * (rows - len(contexts)), jnp.int32)
        tiles = decode.one_token_rows(context_len, len(contexts))
        chunks = decode.cut(tiles, 32768, 8, Scoring(1.0, None, None), blocks)
        counts.append(np.diff(chunks.first)[: len(contexts)].tolist())
    assert counts[0] == counts[1]
    assert blocks.programs // 8 // 2 < sum(counts[0]) <= blocks.programs // 8 + len(contexts)
