"""How tensors of a checkpoint make the weights of a mixture's experts. Used by families/, called as recipes.py says."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from jaxengine.models import WeightSpec
from torch_compat.recipes import Index, OneTensor, Place, Read, Reader, Recipe

# Where a tensor holds both gate and up: one behind the other, or feature by feature.
GateUp = Literal["", "halves", "neighbours"]

FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
FP4 = np.concatenate([FP4, -FP4])  # by its four bits: sign, two of the exponent, one of the mantissa


@dataclass(frozen=True)
class EachExpert:
    """[X, n, F, E] or, of one source, [X, E, F]: a tensor an expert and source, whose names hold {x}."""

    parts: tuple[str, ...]

    def __init__(self, *parts: str) -> None:
        object.__setattr__(self, "parts", parts)

    @property
    def sources(self) -> tuple[str, ...]:
        return self.parts

    def chosen(self, spec: WeightSpec, present: Collection[str]) -> Recipe:
        """With the names of all experts."""
        experts = range(spec.shape[0])
        return _AllExperts(tuple(part.format(x=x) for x in experts for part in self.parts))


@dataclass(frozen=True)
class _AllExperts:
    sources: tuple[str, ...]

    def reader(self, read: Read, names: Sequence[str], place: Place) -> Reader:
        spec = place.spec
        outer, inner = spec.shape[:-2], spec.shape[-2:]
        tensors = [read(name, inner) for name in names]
        numbers = np.arange(len(tensors)).reshape(outer)

        def part(index: Index) -> np.ndarray:
            mine = numbers[index[: len(outer)]]
            made = [tensors[number][index[len(outer) :]].astype(spec.dtype, copy=False) for number in mine.flat]
            return np.stack(made).reshape(*mine.shape, *made[0].shape)

        return part


@dataclass(frozen=True)
class FusedExperts(OneTensor):
    """[X, 2, F, ...] of gate and up, or [X, E, ...], from one tensor that holds all experts: [X, outputs, inputs], or
    transposed [X, inputs, outputs], or of biases [X, outputs]."""

    gate_up: GateUp = ""
    transposed: bool = False

    def reader(self, read: Read, names: Sequence[str], place: Place) -> Reader:
        spec = place.spec
        X, outputs, *inputs = _flat_outputs(spec.shape, self.gate_up)
        if self.transposed:
            tensor = read(names[0], (X, *inputs, outputs)).swapaxes(1, 2)
        else:
            tensor = read(names[0], (X, outputs, *inputs))
        parts = _gate_and_up(tensor, self.gate_up)
        return lambda index: parts[index].astype(spec.dtype)


@dataclass(frozen=True)
class Mxfp4Experts:
    """The same from MXFP4 (OCP Microscaling Formats 1.0): numbers of four bits, the first of two in the lower half of a
    byte, in blocks of 32 neighbouring inputs with one power of two."""

    source: str
    gate_up: GateUp = ""

    @property
    def sources(self) -> tuple[str, ...]:
        return (f"{self.source}_blocks", f"{self.source}_scales")

    def reader(self, read: Read, names: Sequence[str], place: Place) -> Reader:
        spec = place.spec
        X, outputs, inputs = _flat_outputs(spec.shape, self.gate_up)
        blocks = _gate_and_up(read(names[0], (X, outputs, inputs // 32, 16)), self.gate_up)
        scales = _gate_and_up(read(names[1], (X, outputs, inputs // 32)), self.gate_up)

        def part(index: Index) -> np.ndarray:
            *rows, column = index
            experts = range(X)[rows[0]]
            inner = tuple(rows[1:])
            return np.stack([unpacked(blocks[x][inner], scales[x][inner])[..., column] for x in experts]).astype(
                spec.dtype
            )

        return part


def unpacked(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """MXFP4 blocks [..., n, 16] and scales [..., n], both uint8 → [..., n · 32] float32."""
    pairs = np.stack([FP4[blocks & 15], FP4[blocks >> 4]], axis=-1)  # [..., n, 16, 2]
    values = np.ldexp(pairs.reshape(*blocks.shape[:-1], 32), scales[..., None].astype(np.int32) - 127)
    return values.reshape(*blocks.shape[:-2], -1)


@dataclass(frozen=True)
class OneOf:
    """The first recipe whose tensors are all there, else the first."""

    choices: tuple[Recipe, ...]

    def __init__(self, *choices: Recipe) -> None:
        object.__setattr__(self, "choices", choices)

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(source for choice in self.choices for source in choice.sources)

    def chosen(self, spec: WeightSpec, present: Collection[str]) -> Recipe:
        whole = (choice for choice in self.choices if set(choice.sources) <= set(present))
        return next(whole, self.choices[0])


def _flat_outputs(shape: tuple[int, ...], gate_up: GateUp) -> tuple[int, ...]:
    """[X, 2, F, ...] → [X, 2F, ...]."""
    return (shape[0], 2 * shape[2], *shape[3:]) if gate_up else shape


def _gate_and_up(tensor: np.ndarray, gate_up: GateUp) -> np.ndarray:
    """[X, 2F, ...] → [X, 2, F, ...], a view."""
    X, outputs, *rest = tensor.shape
    match gate_up:
        case "halves":
            return tensor.reshape(X, 2, outputs // 2, *rest)
        case "neighbours":
            return tensor.reshape(X, outputs // 2, 2, *rest).swapaxes(1, 2)
        case _:
            return tensor
