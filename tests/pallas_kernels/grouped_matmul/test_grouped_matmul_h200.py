"""What grouped_mlp compiles to for an H200: few kernels, no spilled registers, no temporary as large as the weights."""

import pytest

from tests.h200 import told_by
from tests.pallas_kernels.grouped_matmul.h200_compile import CASES

TEMPORARIES = {
    "qwen3_30b_8192": 400e6,
    "gpt_oss_4096": 200e6,
    "float32": 25e6,
}  # bytes: the pairs' rows between products


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return told_by("tests.pallas_kernels.grouped_matmul.h200_compile", str(tmp_path_factory.mktemp("toolkit")))


@pytest.mark.parametrize("case", CASES)
def test_few_kernels_and_small_temporaries(compiled: dict, case: str) -> None:
    program = compiled[case]
    assert program["kernels"] <= (12 if case in ("qwen3_30b_8192", "gpt_oss_4096") else 5)
    assert program["temp_bytes"] < TEMPORARIES.get(case, 12e6)


@pytest.mark.parametrize("case", CASES)
def test_no_kernel_spills_registers(compiled: dict, case: str) -> None:
    kernels = compiled[case]["ptxas"]
    if not kernels:
        pytest.skip("no ptxas here")
    assert {"grouped_matmul_gate_up", "grouped_matmul_down"} <= set(kernels)
    for kernel, (registers, stores, loads) in kernels.items():
        assert (stores, loads) == (0, 0), f"{kernel} spills with {registers} registers"
