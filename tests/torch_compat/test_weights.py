"""From files to arrays on a mesh: layouts, slices per device, casts, dummy weights, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from models_harness import load, save_transformers_model
from safetensors.numpy import load_file, save_file
from transformers import LlamaConfig, Qwen3Config

from jaxengine.models import Model, build_model
from jaxengine.sharding import make_mesh
from torch_compat import weights as weights_module
from torch_compat.checkpoint import Checkpoint, CheckpointError
from torch_compat.hf_config import load_model_config
from torch_compat.weights import check_weights, dummy_weights, load_weights

SIZES: dict[str, Any] = {
    "vocab_size": 131,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("llama")
    save_transformers_model(directory, LlamaConfig(**SIZES))
    return directory


def test_fused_layouts(llama: Path) -> None:
    _, weights = load(llama)
    file = load_file(llama / "model.safetensors")
    prefix = "model.layers.1."
    q, k, v = (file[f"{prefix}self_attn.{name}_proj.weight"].reshape(-1, 8, 32) for name in "qkv")
    qkv = np.asarray(weights["layers.1.qkv"])  # [K, G + 2, D, E]
    np.testing.assert_array_equal(qkv[1, :4], q[4:])
    np.testing.assert_array_equal(qkv[1, 4], k[1])
    np.testing.assert_array_equal(qkv[1, 5], v[1])
    np.testing.assert_array_equal(weights["layers.1.gate_up"][1], file[prefix + "mlp.up_proj.weight"])
    np.testing.assert_array_equal(weights["layers.1.o"].reshape(32, 64), file[prefix + "self_attn.o_proj.weight"])
    np.testing.assert_array_equal(weights["head"], file["lm_head.weight"])


def test_every_device_gets_its_own_slice(llama: Path) -> None:
    """Eight devices, two kv heads: each is copied to four devices beside that device's own query head."""
    _, one = load(llama)
    model, eight = load(llama, tp=8)
    for name, spec in model.weight_specs().items():
        shards = eight[name].addressable_shards
        split = [
            size // 8 if axis in ("vocab", "kv_heads", "heads", "mlp") else size
            for axis, size in zip(spec.axes, spec.shape, strict=True)
        ]
        assert {shard.data.shape for shard in shards} == {tuple(split)}
    qkv, whole = np.asarray(eight["layers.0.qkv"]), np.asarray(one["layers.0.qkv"])
    assert qkv.shape == (8, 3, 8, 32)
    np.testing.assert_array_equal(qkv[:, 0], whole[:, :4].reshape(8, 8, 32))
    for head in range(8):
        np.testing.assert_array_equal(qkv[head, 1:], whole[head // 4, 4:])
    np.testing.assert_array_equal(eight["embed"][:131], one["embed"])
    assert not eight["embed"][131:].any()


def test_no_device_reads_more_than_its_slice(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original = weights_module._bounded

    def watch(index: Any, spec: Any) -> Any:
        part = original(index, spec)
        if "kv_heads" in spec.axes or "mlp" in spec.axes:
            read.append(int(np.prod([s.stop - s.start for s in part])) * 4)
        return part

    monkeypatch.setattr(weights_module, "_bounded", watch)
    _, weights = load(llama, tp=2)
    split = sum(w.nbytes for name, w in weights.items() if name.endswith(("qkv", "gate_up", "down")))
    assert sum(read) == split


def test_shards_on_disk_are_one_model(tmp_path: Path) -> None:
    model = Qwen3Config(**SIZES, tie_word_embeddings=True)
    save_transformers_model(tmp_path / "one", model)
    save_transformers_model(tmp_path / "many", model, max_shard_size="20KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 3
    (_, one), (_, many) = load(tmp_path / "one"), load(tmp_path / "many")
    jax.tree.map(np.testing.assert_array_equal, one, many)
    assert "head" not in one


def test_casts_on_the_way(llama: Path) -> None:
    _, exact = load(llama)
    _, cast = load(llama, dtype="bfloat16")
    for name, array in cast.items():
        np.testing.assert_array_equal(array, exact[name].astype("bfloat16"))


def damaged(llama: Path, directory: Path, **changes: Any) -> tuple[Model, Path]:
    """The checkpoint with tensors replaced (or, with None, left out). Names have _ for dots."""
    file = load_file(llama / "model.safetensors")
    for name, value in changes.items():
        found = next((known for known in file if known.replace(".", "_") == name), name)
        file.pop(found, None)
        if value is not None:
            file[found] = value
    save_file(file, directory / "model.safetensors")
    (directory / "config.json").write_text((llama / "config.json").read_text())
    return build_model(load_model_config(directory), make_mesh(1)), directory


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model_layers_0_self_attn_k_proj_weight": None},
            r"no tensor 'model.layers.0.self_attn.k_proj.weight' of shape",
        ),
        (
            {"lm_head_weight": np.zeros((130, 32), np.float32)},
            r"has shape \[130, 32\], but config.json asks for \[131, 32\]",
        ),
        ({"model.layers.1.self_attn.q_proj.bias": np.zeros(64)}, r"q_proj.bias' has no place in a LlamaForCausalLM"),
    ],
)
def test_refuses_what_does_not_fit(change: dict[str, Any], message: str, llama: Path, tmp_path: Path) -> None:
    model, path = damaged(llama, tmp_path, **change)
    with pytest.raises(CheckpointError, match=message):
        load_weights(model, path, progress=False)
    with pytest.raises(CheckpointError, match=message):
        check_weights(model, path)
    check_weights(model, path, "dummy")


def test_ignores_what_no_model_needs(llama: Path, tmp_path: Path) -> None:
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(4), "model.layers.2.mlp.new": np.zeros(1)}
    model, path = damaged(llama, tmp_path, **extra)
    check_weights(model, path)
    assert load_weights(model, path, progress=False)


def test_dummy_weights(llama: Path) -> None:
    model = build_model(load_model_config(llama, "bfloat16"), make_mesh(1))
    first, again, other = (dummy_weights(model, seed) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert {name: array.shape for name, array in first.items()} == {n: s.shape for n, s in model.weight_specs().items()}
    assert (first["final_norm"] == 1).all()
    assert not (first["embed"] == other["embed"]).all()
    assert not (first["layers.0.down"] == first["layers.1.down"]).all()
    assert np.std(np.asarray(first["layers.0.down"], np.float32)) == pytest.approx(48**-0.5, rel=0.1)


def test_dummy_weights_are_sharded_alike(llama: Path) -> None:
    config = load_model_config(llama)
    one, two = (load_weights(build_model(config, make_mesh(tp)), llama, "dummy") for tp in (1, 2))
    np.testing.assert_array_equal(one["layers.0.gate_up"], two["layers.0.gate_up"])
    assert len(two["layers.0.gate_up"].addressable_shards) == 2


def test_few_programs_for_dummy_weights(llama: Path) -> None:
    weights_module._normal.cache_clear()
    model = build_model(load_model_config(llama, hf_overrides={"num_hidden_layers": 9}), make_mesh(1))
    dummy_weights(model)
    assert weights_module._normal.cache_info().currsize <= 7


def test_unknown_load_format(llama: Path) -> None:
    with pytest.raises(ValueError, match="load_format='gguf' is not one of auto, safetensors, dummy"):
        load_weights(build_model(load_model_config(llama), make_mesh(1)), llama, "gguf")


def test_progress_says_bytes(llama: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load_weights(build_model(load_model_config(llama), make_mesh(1)), llama)
    assert "Loading weights: 100%" in (text := capsys.readouterr().err)
    assert "B/s" in text


def test_loads_without_torch(llama: Path) -> None:
    program = """
import sys
sys.modules["torch"] = None
sys.modules["transformers"] = None
from pathlib import Path
from jaxengine.models import build_model
from jaxengine.sharding import make_mesh
from torch_compat import hf_config, hub, weights
path = hub.resolve(sys.argv[1])
model = build_model(hf_config.load_model_config(path), make_mesh(1))
print(len(weights.load_weights(model, path, progress=False)))
"""
    run = subprocess.run([sys.executable, "-c", program, str(llama)], capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "15", run.stderr
    assert len(list(Checkpoint(llama))) == 21
