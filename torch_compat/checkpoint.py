"""Safetensors files, mapped: each tensor is a numpy view of the file, read when touched. `weights.py` slices them.

The format is 8 bytes of header length, a JSON header (name → dtype, shape, byte range), then the data, little-endian
(github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

INDEX = "model.safetensors.index.json"

_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


class CheckpointError(ValueError):
    """A checkpoint that cannot be read. The message names the file, the tensor and what was expected."""


@dataclass(frozen=True)
class Tensor:
    """Where one tensor lies in a file."""

    file: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int  # byte offset from the beginning of the file


class Checkpoint:
    """All tensors of a model directory: one file, or shards with an index. Raises CheckpointError."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.tensors: dict[str, Tensor] = {}
        for file in self._files():
            self.tensors |= read_header(file)
        self._check_index()
        self._maps = {file: _map(file) for file in {tensor.file for tensor in self.tensors.values()}}

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def has(self, beginning: str) -> bool:
        """Whether any name begins so."""
        return any(name.startswith(beginning) for name in self.tensors)

    def read(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """A read-only view of a tensor, which must have this shape."""
        if name not in self.tensors:
            raise CheckpointError(
                f"{self.directory}: no tensor {name!r} of shape {list(shape)}; {self._nearest(name)}."
            )
        tensor = self.tensors[name]
        if tensor.shape != shape:
            raise CheckpointError(
                f"{tensor.file}: tensor {name!r} has shape {list(tensor.shape)}, "
                f"but config.json asks for {list(shape)}."
            )
        count = math.prod(shape)
        return np.frombuffer(self._maps[tensor.file], tensor.dtype, count, tensor.start).reshape(shape)

    def _files(self) -> list[Path]:
        if (self.directory / INDEX).exists():
            return [self._shard(name) for name in sorted(set(self._weight_map().values()))]
        if (self.directory / "model.safetensors").exists():
            return [self.directory / "model.safetensors"]
        files = sorted(
            file
            for file in self.directory.glob("*.safetensors")
            if not file.name.startswith(("consolidated", "adapter"))
        )
        if files:
            return files
        torch_files = sorted(
            file.name for pattern in ("*.bin", "*.pth", "*.pt") for file in self.directory.glob(pattern)
        )
        if torch_files:
            raise CheckpointError(
                f"{self.directory}: only torch files ({torch_files[0]}, …) and no safetensors; "
                "save the model with transformers' save_pretrained to convert it."
            )
        raise CheckpointError(f"{self.directory}: no *.safetensors file; load_format='dummy' runs with random weights.")

    def _shard(self, name: str) -> Path:
        if not (self.directory / name).exists():
            present = len(list(self.directory.glob("*.safetensors")))
            total = len(set(self._weight_map().values()))
            raise CheckpointError(
                f"{self.directory / name}: shard is missing ({present} of {total} are there); download the model again."
            )
        return self.directory / name

    def _weight_map(self) -> dict[str, str]:
        try:
            return json.loads((self.directory / INDEX).read_text())["weight_map"]
        except (ValueError, KeyError) as error:
            raise CheckpointError(f"{self.directory / INDEX}: not an index of shards ({error}).") from None

    def _check_index(self) -> None:
        if (self.directory / INDEX).exists():
            for name, file in self._weight_map().items():
                if name not in self.tensors:
                    raise CheckpointError(f"{self.directory / file}: no tensor {name!r}, though {INDEX} puts it there.")

    def _nearest(self, name: str) -> str:
        ending = name.rsplit(".", 2)[-2:]
        similar = [other for other in self.tensors if other.rsplit(".", 2)[-2:] == ending]
        return (
            f"the nearest is {similar[0]!r}"
            if similar
            else f"its {len(self.tensors)} tensors have no {'.'.join(ending)}"
        )


def open_checkpoint(directory: str | Path) -> Any:
    """A Checkpoint, or the TorchFiles that look like one where torch's own files are all there is and torch is here."""
    directory = Path(directory)
    if not any(directory.glob("*.safetensors")):
        with contextlib.suppress(ImportError):
            from torch_compat.torch_files import TorchFiles, torch_files

            if torch_files(directory):
                return TorchFiles(directory)
    return Checkpoint(directory)


def read_header(file: Path) -> dict[str, Tensor]:
    """Name → place of every tensor of a safetensors file. Raises CheckpointError if the file is cut short."""
    size = file.stat().st_size
    with file.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if size < 8 or 8 + length > size:
            raise CheckpointError(
                f"{file}: truncated or not a safetensors file: it has {size:,} bytes, "
                f"its header alone asks for {8 + length:,}."
            )
        try:
            header = json.loads(handle.read(length))
        except ValueError:
            raise CheckpointError(f"{file}: not a safetensors file: its header is no JSON.") from None
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        if entry["dtype"] not in _DTYPES:
            raise CheckpointError(f"{file}: tensor {name!r} has unknown dtype {entry['dtype']}.")
        tensor = Tensor(file, np.dtype(_DTYPES[entry["dtype"]]), tuple(entry["shape"]), start)
        expected = math.prod(tensor.shape) * tensor.dtype.itemsize
        if end - start != expected:
            raise CheckpointError(
                f"{file}: tensor {name!r} has {end - start:,} bytes, its shape asks for {expected:,}."
            )
        if end > size:
            raise CheckpointError(
                f"{file}: truncated: {size:,} bytes, but tensor {name!r} ends at {end:,}; download the file again."
            )
        tensors[name] = tensor
    return tensors


def _map(file: Path) -> mmap.mmap:
    with file.open("rb") as handle:
        return mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
