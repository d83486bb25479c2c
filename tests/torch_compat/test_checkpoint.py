"""Safetensors read by mapping, and one clear line for each way in which files can be wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from torch_compat.checkpoint import INDEX, Checkpoint, CheckpointError


def tensors(dtype: type = np.float32) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {name: random.normal(size=shape).astype(dtype) for name, shape in (("a.weight", (3, 5)), ("b.weight", (7,)))}


def sharded(directory: Path) -> None:
    files = {"a.weight": "model-00001-of-00002.safetensors", "b.weight": "model-00002-of-00002.safetensors"}
    for name, file in files.items():
        save_file({name: tensors()[name]}, directory / file)
    (directory / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
def test_reads_what_was_written(dtype: type, tmp_path: Path) -> None:
    save_file(tensors(dtype), tmp_path / "model.safetensors", metadata={"format": "pt"})
    checkpoint = Checkpoint(tmp_path)
    assert sorted(checkpoint) == ["a.weight", "b.weight"]
    for name, expected in tensors(dtype).items():
        read = checkpoint.read(name, expected.shape)
        assert read.dtype == expected.dtype
        np.testing.assert_array_equal(read.view(np.uint8), expected.view(np.uint8))
        assert not read.flags.writeable


def test_reads_shards_by_their_index(tmp_path: Path) -> None:
    sharded(tmp_path)
    np.testing.assert_array_equal(Checkpoint(tmp_path).read("b.weight", (7,)), tensors()["b.weight"])


def test_ignores_other_formats_of_the_same_weights(tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / "weights.safetensors")
    save_file({"other": np.zeros(1)}, tmp_path / "consolidated.safetensors")
    assert "other" not in Checkpoint(tmp_path)


def read_all(directory: Path) -> None:
    checkpoint = Checkpoint(directory)
    checkpoint.read("a.weight", (3, 5))
    checkpoint.read("b.weight", (7,))


def fails(directory: Path, message: str) -> None:
    with pytest.raises(CheckpointError) as error:
        read_all(directory)
    assert re.search(message, str(error.value)), str(error.value)
    assert "\n" not in str(error.value)
    assert str(directory) in str(error.value)


def test_missing_shard(tmp_path: Path) -> None:
    sharded(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    fails(tmp_path, r"model-00002-of-00002.safetensors: shard is missing \(1 of 2 are there\); download")


def test_truncated_data(tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / "model.safetensors")
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-9])
    fails(tmp_path, rf"truncated: {len(whole) - 9} bytes, but tensor '[ab].weight' ends at {len(whole)}")


@pytest.mark.parametrize("size", [0, 5, 20])
def test_truncated_header(size: int, tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:size])
    fails(tmp_path, f"truncated or not a safetensors file: it has {size} bytes")


def test_not_safetensors(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes((4).to_bytes(8, "little") + b"abcd" + bytes(100))
    fails(tmp_path, "not a safetensors file: its header is no JSON")


def test_missing_tensor(tmp_path: Path) -> None:
    save_file({"a.weight": tensors()["a.weight"], "prefix.b.weight": np.zeros(7)}, tmp_path / "model.safetensors")
    fails(tmp_path, r"no tensor 'b.weight' of shape \[7\]; the nearest is 'prefix.b.weight'")


def test_tensor_missing_from_its_shard(tmp_path: Path) -> None:
    sharded(tmp_path)
    save_file({"c": np.zeros(1)}, tmp_path / "model-00002-of-00002.safetensors")
    fails(tmp_path, f"no tensor 'b.weight', though {INDEX} puts it there")


def test_wrong_shape(tmp_path: Path) -> None:
    save_file(tensors() | {"b.weight": np.zeros((7, 1))}, tmp_path / "model.safetensors")
    fails(tmp_path, r"tensor 'b.weight' has shape \[7, 1\], but config.json asks for \[7\]")


def test_only_torch_files(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").touch()
    fails(tmp_path, r"only torch files \(pytorch_model.bin, …\) and no safetensors; save the model")


def test_nothing_at_all(tmp_path: Path) -> None:
    fails(tmp_path, r"no \*.safetensors file; load_format='dummy' runs with random weights")
