"""What of the CUDA products needs no GPU: which calls it takes, its sizes, and that it compiles for Hopper."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from pallas_kernels.cuda import build
from pallas_kernels.matmul import cuda, cuda_gated
from pallas_kernels.matmul.tuning import GATED_HALVES, SHARED, gated_half, pays_to_gate, weight_tiles
from tests.pallas_kernels.hopper_build import compile_without_spills

LAYERS = [  # parts, outputs, inputs: qkv, o, gate and up, down of Qwen3-0.6B, then of Llama-3.1-8B
    (1, 4096, 1024), (1, 1024, 2048), (2, 3072, 1024), (1, 1024, 3072),
    (1, 6144, 4096), (1, 4096, 4096), (2, 14336, 4096), (1, 4096, 14336),
]  # fmt: skip


@pytest.mark.parametrize(("parts", "outputs", "inputs"), [*LAYERS, (1, 64, 64), (2, 25600, 5120), (1, 8192, 28672)])
@pytest.mark.parametrize("tokens", cuda.TOKENS)
def test_stages_fit_shared_memory_and_blocks_the_device(tokens: int, parts: int, outputs: int, inputs: int) -> None:
    tiles = weight_tiles(tokens, parts * outputs, inputs, 132)
    gains = 2 * inputs // tiles.split + 128 * tiles.panels
    stages = tiles.stages * tiles.panels * (64 * tiles.tall + tokens) * 128
    sums = tokens * (64 * tiles.tall + 4) * 4 if tiles.split > 1 else 0
    assert tiles.per_sm * (1024 + gains + sums + stages + 16 * tiles.stages + 16) <= SHARED
    assert tiles.stages > 0
    assert inputs % (64 * tiles.panels) == 0
    if tiles.per_sm == 1:
        assert -(-parts * outputs // (64 * tiles.tall)) * tiles.split <= 132


@pytest.mark.skipif(build.architecture() != cuda.HOPPER, reason="a GPU of another kind")
def test_calls_it_takes() -> None:
    def takes(x: tuple[int, ...], weight: tuple[int, ...], *kinds: str) -> bool:
        of_x, of_weight, of_result = kinds or ("bfloat16",) * 3
        arrays = jax.ShapeDtypeStruct(x, jnp.dtype(of_x)), jax.ShapeDtypeStruct(weight, jnp.dtype(of_weight))
        return cuda.supports(*arrays, jnp.dtype(of_result))  # type: ignore[arg-type]

    assert takes((2, 1024), (4096, 1024))
    assert takes((32, 16, 128), (2, 3072, 16, 128))
    assert takes((8, 1024), (4096, 1024), "float16", "float16", "float16")
    assert not takes((1, 1024), (4096, 1024))
    assert not takes((33, 1024), (4096, 1024))
    assert not takes((8, 1000), (4096, 1000))
    assert not takes((8, 1024), (4100, 1024))
    assert not takes((8, 1024), (4096, 1024), "float32", "float32", "float32")
    assert not takes((8, 1024), (4096, 1024), "bfloat16", "bfloat16", "float32")


@pytest.mark.skipif(build.architecture() != cuda.HOPPER, reason="a GPU of another kind")
def test_gates_it_takes() -> None:
    def takes(x: tuple[int, ...], weight: tuple[int, ...], of_result: str = "bfloat16") -> bool:
        arrays = jax.ShapeDtypeStruct(x, jnp.dtype("bfloat16")), jax.ShapeDtypeStruct(weight, jnp.dtype("bfloat16"))
        return cuda_gated.suits(*arrays, jnp.dtype(of_result))  # type: ignore[arg-type]

    assert takes((128, 4096), (2, 14336, 4096))
    assert takes((8192, 16, 64), (2, 40, 16, 64))
    assert not takes((8192, 4096), (2, 14336, 4096))
    assert not takes((64, 4096), (2, 14336, 4096))
    assert not takes((128, 1000), (2, 14336, 1000))
    assert not takes((128, 4096), (2, 14340, 4096))
    assert not takes((128, 4096), (2, 14336, 4096), "float32")


def test_tiles_fill_the_processors() -> None:
    """One token more than a full round of tiles costs a round, so narrower tiles may be done before wide ones."""
    assert gated_half(128, 14336, 132) == 112  # 128 thread blocks, not 112
    assert gated_half(256, 14336, 132) == 112  # two rounds either way
    assert pays_to_gate(512, 14336, 132)
    assert not pays_to_gate(64, 14336, 132)
    assert not pays_to_gate(1024, 14336, 132)
    assert gated_half(8192, 14336, 132) == 128
    assert {gated_half(tokens, F, 132) for tokens in (128, 1024, 8192) for F in (3072, 9728, 25600)} <= {*GATED_HALVES}


@pytest.mark.skipif(not build.available(), reason="no nvcc")
def test_products_are_not_serialised_and_nothing_spills(tmp_path: Path) -> None:
    few = [cuda.constants("bfloat16", tokens, *LAYERS[i], True) for tokens, i in ((8, 0), (32, 2), (32, 6))]
    few += [cuda.constants("bfloat16", 32, *LAYERS[7], False), cuda.constants("float16", 32, *LAYERS[1], False)]
    gated = [cuda_gated.constants("bfloat16", 128, 14336) | {"HALF": half} for half in GATED_HALVES]
    gated += [cuda_gated.constants("float16", 128, 14336)]
    asked = [*(("matmul_few_tokens", sizes) for sizes in few), *(("matmul_gated", sizes) for sizes in gated)]
    for log in compile_without_spills(asked, tmp_path):
        assert "serialized" not in log
