"""What a whole step compiles to for an H200: the state is written in place, and a layer is few kernels."""

import pytest

from pallas_kernels.cuda import build
from tests.end_to_end.h200_step import CASES
from tests.h200 import told_by

KERNELS = {  # of a layer, at most; products that tuning would split take one more each
    "llama_8b_decode_1": 7,
    "llama_8b_decode_32": 7,
    "llama_8b_decode_256": 10,
    "llama_8b_mixed_2048": 10,
    "llama_8b_decode_32_fp8": 7,
    "llama_8b_mixed_2048_fp8": 11,
    "qwen3_0.6b_decode_1": 7,
    "qwen3_0.6b_decode_256": 10,
    "qwen3_0.6b_decode_1_four_steps": 7,
    "qwen3_0.6b_decode_8_four_steps": 8,
    "qwen3_30b_decode_1": 12,
    "qwen3_30b_decode_32": 12,
    "qwen3_30b_decode_256": 13,
    "qwen3_30b_mixed_2048": 18,
    "deepseek_v2_lite_decode_1": 24,
    "deepseek_v2_lite_decode_256": 24,
    "deepseek_v2_lite_mixed_2048": 38,
}
OUTSIDE = 30  # unpacking, embedding, angles, plans of attention, sampling


@pytest.fixture(scope="module")
def compiled() -> dict:
    return told_by("tests.end_to_end.h200_step")


@pytest.mark.parametrize("case", CASES)
def test_the_state_is_written_in_place(compiled: dict, case: str) -> None:
    program = compiled[case]
    assert program["pool_copies"] == 0
    assert program["alias_bytes"] >= program["state_bytes"]


@pytest.mark.parametrize("case", CASES)
def test_weights_are_read_as_they_lie(compiled: dict, case: str) -> None:
    assert compiled[case]["weight_copies"] == 0


def test_products_that_share_their_tokens_stay_apart(compiled: dict) -> None:
    assert compiled["concatenated"] == [1, 0]


@pytest.mark.skipif(not build.available(), reason="no nvcc")
@pytest.mark.parametrize("case", CASES)
def test_a_layer_is_few_kernels(compiled: dict, case: str) -> None:
    program = compiled[case]
    assert 5 <= program["kernels_of_a_layer"] <= KERNELS[case]
    assert program["kernels_of_no_layer"] <= OUTSIDE
