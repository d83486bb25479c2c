"""What the kernels compile to for an H200: no copy of the pool, written in place, no spilled registers."""

import pytest

from tests.h200 import told_by
from tests.pallas_kernels.h200_compile import CASES


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return told_by("tests.pallas_kernels.h200_compile", str(tmp_path_factory.mktemp("toolkit")))


@pytest.mark.parametrize("case", CASES)
def test_the_pool_is_written_in_place_and_never_copied(compiled: dict, case: str) -> None:
    program = compiled["programs"][case]
    assert program["pool_copies"] == 0
    assert program["alias_bytes"] == program["pool_bytes"]
    assert program["temp_bytes"] < program["pool_bytes"] // 4


@pytest.mark.parametrize("case", CASES)
def test_decode_runs_the_decode_kernel_alone_and_plans_once_for_all_layers(compiled: dict, case: str) -> None:
    program = compiled["programs"][case]
    decode = ["paged_attention_decode", "paged_attention_merge"]
    assert program["attention_kernels"] == (decode if "decode" in case else [*decode, "paged_attention_prefill"])
    assert program["kernels"] <= (16 if "decode" in case else 24)  # of two layers: 3 or 4 each, and the plan


def test_no_kernel_spills_registers(compiled: dict) -> None:
    if not compiled["ptxas"]:
        pytest.skip("no ptxas here")
    assert len(compiled["ptxas"]) == 3
    for kernel, (registers, stores, loads) in compiled["ptxas"].items():
        assert (stores, loads) == (0, 0), f"{kernel} spills with {registers} registers"
