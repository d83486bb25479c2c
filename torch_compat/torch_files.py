"""torch's own checkpoint files (`.bin`, `.pt`, `.pth`), for models that were never saved as safetensors.

Read with weights_only=True, so a file cannot run code; tensors are mapped, and read when touched. Looks like
`checkpoint.Checkpoint` to whoever reads weights.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import torch

from torch_compat.checkpoint import CheckpointError, Tensor

PATTERNS = ("pytorch_model*.bin", "*.bin", "*.pt", "*.pth")  # the first that finds files
INDEX = "pytorch_model.bin.index.json"
OTHERS = ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "optimizer.bin")


class TorchFiles:
    """All tensors of a model directory. Raises CheckpointError."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.arrays: dict[str, torch.Tensor] = {}
        self.tensors: dict[str, Tensor] = {}  # where each lies
        for file in torch_files(self.directory):
            found = _read(file)
            self.arrays |= found
            places = {name: Tensor(file, np.dtype(np.void), tuple(tensor.shape), 0) for name, tensor in found.items()}
            self.tensors |= places
        index = self.directory / INDEX
        if index.exists():
            missing = [name for name in json.loads(index.read_text())["weight_map"] if name not in self.tensors]
            if missing:
                raise CheckpointError(f"{self.directory}: no tensor {missing[0]!r}, though {INDEX} says where it is.")

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def has(self, beginning: str) -> bool:
        """Whether any name begins so."""
        return any(name.startswith(beginning) for name in self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def array(self, name: str) -> np.ndarray:
        """A tensor as numpy sees it, without a copy."""
        return numpy_view(self.arrays[name])

    def read(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """A tensor, which must have this shape."""
        if name not in self.tensors:
            raise CheckpointError(f"{self.directory}: no tensor {name!r} of shape {list(shape)}.")
        if self.shape(name) != shape:
            raise CheckpointError(
                f"{self.tensors[name].file}: tensor {name!r} has shape {list(self.shape(name))}, "
                f"but config.json asks for {list(shape)}."
            )
        return self.array(name)


def torch_files(directory: Path) -> list[Path]:
    """The files that hold the model's weights."""
    for pattern in PATTERNS:
        files = sorted(file for file in directory.glob(pattern) if file.name not in OTHERS)
        if files:
            return files
    return []


def numpy_view(tensor: torch.Tensor) -> np.ndarray:
    """A torch tensor as a numpy array, without a copy where it is contiguous and on the CPU."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    if tensor.dtype == torch.float8_e4m3fn:
        return tensor.view(torch.int8).numpy().view(ml_dtypes.float8_e4m3fn)
    return tensor.numpy()


def torch_view_of(array: np.ndarray) -> torch.Tensor:
    """The other way round, for an array that nobody writes to."""
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(_writable(array.view(np.int16))).view(torch.bfloat16)
    if array.dtype == ml_dtypes.float8_e4m3fn:
        return torch.from_numpy(_writable(array.view(np.int8))).view(torch.float8_e4m3fn)
    return torch.from_numpy(_writable(array))


def _writable(array: np.ndarray) -> np.ndarray:
    """torch warns of arrays that it may not write; a view through their address is not asked."""
    if array.flags.writeable or not array.size:
        return array
    interface = array.__array_interface__ | {"data": (array.__array_interface__["data"][0], False)}

    class Address:
        __array_interface__ = interface
        owner = array

    return np.asarray(Address())


def _read(file: Path) -> dict[str, torch.Tensor]:
    try:
        found = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"{file}: cannot be read as weights alone ({reason}).") from None
    for key in ("state_dict", "model", "module"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict):
        raise CheckpointError(f"{file}: holds a {type(found).__name__}, not a dictionary of tensors.")
    return {name: tensor for name, tensor in found.items() if isinstance(tensor, torch.Tensor)}
