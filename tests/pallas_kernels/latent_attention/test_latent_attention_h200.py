"""What the kernels compile to for an H200: no copy of the pool, written in place, no spilled registers."""

import pytest

from tests.h200 import told_by
from tests.pallas_kernels.latent_attention.h200_compile import CASES


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return told_by("tests.pallas_kernels.latent_attention.h200_compile", str(tmp_path_factory.mktemp("toolkit")))


@pytest.mark.parametrize("case", CASES)
def test_the_pool_is_written_in_place_and_never_copied(compiled: dict, case: str) -> None:
    program = compiled["programs"][case]
    assert program["pool_copies"] == 0
    assert program["alias_bytes"] == program["pool_bytes"]


@pytest.mark.parametrize("case", CASES)
def test_a_layer_is_few_kernels_and_the_plan_is_made_once(compiled: dict, case: str) -> None:
    program = compiled["programs"][case]
    decode = ["latent_attention_decode", "latent_attention_merge"]
    assert program["attention_kernels"] == (
        [*decode, "latent_attention_new_tokens", "latent_attention_prefill"] if "mixed" in case else decode
    )
    assert program["kernels"] <= (46 if "mixed" in case else 23)  # of two layers with their products, and the plan


def test_no_kernel_spills_registers(compiled: dict) -> None:
    if not compiled["ptxas"]:
        pytest.skip("no ptxas here")
    assert len(compiled["ptxas"]) == 4
    for kernel, (registers, stores, loads) in compiled["ptxas"].items():
        assert (stores, loads) == (0, 0), f"{kernel} spills with {registers} registers"
