"""What of a token alone in CUDA needs no GPU: when its kernels are taken, and that they compile for Hopper."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from pallas_kernels import backend
from pallas_kernels.cuda import build
from pallas_kernels.grouped_matmul import grouped_mlp, kernel, one_token
from pallas_kernels.grouped_matmul.activation import ClampedSwiglu
from tests.pallas_kernels.hopper_build import compile_without_spills


def taken(monkeypatch: pytest.MonkeyPatch, tokens: int = 1, dtype: Any = jnp.bfloat16, **more: Any) -> str:
    """The implementation that runs on a GPU with a compiler."""
    ran = []
    for module, name in ((one_token, "cuda"), (kernel, "pallas")):
        monkeypatch.setattr(module, "mlp", lambda x, *_, name=name, **__: ran.append(name) or x)
    monkeypatch.setattr(backend, "_runs", lambda name: name in ("cuda", "pallas", "reference"))
    E, F, X, k = more.pop("hidden", 64), more.pop("mlp", 32), 8, 2
    shapes = ((tokens, E), dtype), ((tokens, k), jnp.int32), ((tokens, k), jnp.float32), ((X, 2, F, E), dtype)
    arrays = [jax.ShapeDtypeStruct(*shape) for shape in (*shapes, ((X, E, F), dtype))]
    biases = {name: jax.ShapeDtypeStruct(more.pop(name), dtype) for name in list(more) if name.endswith("bias")}
    jax.eval_shape(lambda arrays, biases: grouped_mlp(*arrays, **biases, **more), arrays, biases)
    return ran[0]


def test_a_token_alone_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert taken(monkeypatch) == taken(monkeypatch, dtype=jnp.float16) == "cuda"


@pytest.mark.parametrize(
    "case",
    [{"tokens": 2}, {"dtype": jnp.float32}, {"activation": "gelu"}, {"activation": ClampedSwiglu()}, {"mlp": 36},
     {"weigh_inputs": True}, {"down_bias": (8, 64)}, {"gate_up_bias": (8, 2, 32)}, {"mlp": one_token.INSIDE + 8},
     {"hidden": one_token.SHARED}],
)  # fmt: skip
def test_what_it_does_not_take_is_left_to_pallas(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert taken(monkeypatch, **case) == "pallas"


def test_who_asks_for_pallas_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert taken(monkeypatch, backend="pallas") == "pallas"
    with backend.use_backend("grouped_matmul=pallas"):
        assert taken(monkeypatch) == "pallas"


@pytest.mark.skipif(not build.available(), reason="no nvcc")
def test_it_compiles_for_hopper_without_spills(tmp_path: Path) -> None:
    shapes = [(8, 128, 2048, 768), (6, 64, 2048, 1408), (8, 256, 7168, 2048), (8, 128, 4096, 1536), (2, 8, 1024, 3072)]
    asked = [("experts_one_token", one_token.constants("bfloat16", *shape)) for shape in shapes]
    for log, shape in zip(compile_without_spills(asked, tmp_path), shapes, strict=True):
        assert log.count("bytes spill stores") == 2, shape  # two kernels
