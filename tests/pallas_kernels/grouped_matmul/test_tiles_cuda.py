"""What of the CUDA tiles needs no GPU: when they are made, the kernel's sizes, and that it compiles for Hopper."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax import Array

from pallas_kernels import backend
from pallas_kernels.cuda import build
from pallas_kernels.grouped_matmul import tiles_cuda
from pallas_kernels.grouped_matmul.tiles import Tiles, most_tiles, tiles_of
from pallas_kernels.grouped_matmul.tuning import COUNTED
from tests.pallas_kernels.hopper_build import compile_without_spills


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sources that were asked for, as on a GPU that has a compiler."""
    sources: list[str] = []

    def target(source: str, **_: int | str) -> str:
        sources.append(source)
        return source

    monkeypatch.setattr(backend, "_runs", lambda name: name in ("cuda", "pallas", "reference"))
    monkeypatch.setattr(build, "target", target)
    return sources


def trace(pairs: int, experts: int, *, interpret: bool = False) -> None:
    def make(chosen: Array) -> Tiles:
        return tiles_of(chosen, experts, 16, interpret=interpret)

    order, table = jax.eval_shape(make, jax.ShapeDtypeStruct((pairs,), jnp.int32))
    assert order.shape == (pairs,)
    assert table.shape == (most_tiles(pairs, experts, 16), 3)
    assert order.dtype == table.dtype == jnp.int32


@pytest.mark.parametrize("setting", ["auto", "cuda", "top_k=pallas", "pallas,grouped_matmul=cuda"])
def test_few_pairs_are_counted_in_cuda(setting: str, asked: list[str]) -> None:
    with backend.use_backend(setting):
        trace(256, 128)
        trace(tiles_cuda.PAIRS, tiles_cuda.EXPERTS)
    assert asked == ["expert_tiles"] * 2


@pytest.mark.parametrize("setting", ["pallas", "grouped_matmul=pallas"])
def test_who_asks_for_pallas_gets_no_cuda(setting: str, asked: list[str]) -> None:
    with backend.use_backend(setting):
        trace(256, 128)
    assert not asked


@pytest.mark.parametrize("setting", ["auto", "cuda"])
def test_what_cuda_does_not_take_is_left_to_the_others(setting: str, asked: list[str]) -> None:
    with backend.use_backend(setting):
        trace(256, tiles_cuda.EXPERTS + 1)
        trace(COUNTED + 1, 128)
        trace(256, 128, interpret=True)
    assert not asked


@pytest.mark.parametrize("experts", [1, 2, 60, 63, 64, 127, 128, 255, 256, tiles_cuda.EXPERTS])
def test_the_thread_block_holds_all_pairs_and_all_experts(experts: int) -> None:
    for pairs in (1, 2, 31, 32, 33, 256, 511, 513, 1536, 2047, tiles_cuda.PAIRS):
        sizes = tiles_cuda.constants(pairs, experts, 16)
        threads = 32 * int(sizes["WARPS"])
        assert pairs <= threads * int(sizes["EACH"]) < pairs + threads
        assert experts // 2 + 1 <= threads


@pytest.mark.skipif(not build.available(), reason="no nvcc")
def test_it_compiles_for_hopper_without_spills(tmp_path: Path) -> None:
    shapes = [(16, 8, 16), (256, 128, 16), (1536, 64, 64), (2048, 128, 32), (tiles_cuda.PAIRS, tiles_cuda.EXPERTS, 16)]
    asked = [("expert_tiles", tiles_cuda.constants(*shape)) for shape in shapes]
    for log, shape in zip(compile_without_spills(asked, tmp_path), shapes, strict=True):
        assert int(re.findall(r"Used (\d+) registers", log)[0]) <= 64, shape
