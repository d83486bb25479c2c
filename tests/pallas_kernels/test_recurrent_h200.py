"""What recurrent ops compile to for an H200: states written in place, no spilled registers."""

import pytest

from tests.h200 import told_by
from tests.pallas_kernels.recurrent_h200_compile import CASES


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return told_by("tests.pallas_kernels.recurrent_h200_compile", str(tmp_path_factory.mktemp("toolkit")))


@pytest.mark.parametrize("case", CASES)
def test_states_are_written_in_place_and_never_copied(compiled: dict, case: str) -> None:
    program = compiled["programs"][case]
    assert program["state_copies"] == 0
    assert program["alias_bytes"] == program["state_bytes"]
    if "mixed" in case:
        assert program["temp_bytes"] < program["state_bytes"] // 2  # tokens of the step, never the states of its rows
    else:
        assert program["temp_bytes"] < 2 << 20
        assert program["kernels"] <= 4  # the update and the convolution, and what XLA makes of their inputs


def test_no_kernel_spills_registers(compiled: dict) -> None:
    if not compiled["ptxas"]:
        pytest.skip("no ptxas here")
    assert {name for name, *_ in compiled["ptxas"]} == {
        "causal_conv_update",
        "gated_delta_update",
        "state_space_update",
    }
    for name, registers, spilled in compiled["ptxas"]:
        assert spilled == 0, f"{name} spills with {registers} registers"
