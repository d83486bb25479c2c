"""How tensors of a checkpoint make one array of ours. families/ says which tensors; weights.py calls `reader`.

A reader gives any part of the array, cut out of the mapped files: nothing whole is ever made on the host.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from jaxengine.layers.rope import Rope
from jaxengine.models import ModelConfig, WeightSpec

Index = tuple[slice, ...]  # one device's part of an array
Reader = Callable[[Index], np.ndarray]
Read = Callable[[str, tuple[int, ...]], np.ndarray]  # name and shape of a tensor → a view of it; both are checked


@dataclass(frozen=True)
class Place:
    """Where an array belongs: what a recipe may need to know of the model."""

    spec: WeightSpec
    config: ModelConfig
    layer: int  # -1 outside of the layers

    @property
    def rope(self) -> Rope:
        return self.config.rope if self.layer < 0 else self.config.layer_rope(self.layer)


class Recipe(Protocol):
    @property
    def sources(self) -> tuple[str, ...]:
        """The tensors' names, without the layer's prefix."""

    def reader(self, read: Read, names: Sequence[str], place: Place) -> Reader:
        """names: the sources in full. Checks the tensors' presence and shapes at once."""


@dataclass(frozen=True)
class OneTensor:
    """What recipes of a single tensor have in common."""

    source: str

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,)


@runtime_checkable
class Choice(Protocol):
    """A recipe that depends on the model's sizes or on what the checkpoint has."""

    @property
    def sources(self) -> tuple[str, ...]:
        """All that it may need, as far as that is known."""

    def chosen(self, spec: WeightSpec, present: Collection[str]) -> Recipe:
        """The one for this array of ours; present: those of `sources` that the checkpoint has."""


@dataclass(frozen=True)
class Same(OneTensor):
    """One tensor of the same elements, whose first axis holds our first `outputs` axes."""

    outputs: int = 1
    transposed: bool = False  # [inputs, outputs], as GPT-2 has it
    plus: float = 0.0

    def reader(self, read: Read, names: Sequence[str], place: Place) -> Reader:
        spec = place.spec
        flat = _flat(spec.shape, self.outputs)
        tensor = read(names[0], flat[::-1]).T if self.transposed else read(names[0], flat)
        parts = tensor.reshape(spec.shape) if not self.transposed else _split_first(tensor, spec.shape, self.outputs)
        if not self.plus:
            return lambda index: parts[index].astype(spec.dtype, copy=False)
        return lambda index: parts[index].astype(spec.dtype) + np.asarray(self.plus, spec.dtype)


@dataclass(frozen=True)
class Either:
    """One tensor of the same shape, by whichever of its names the checkpoint has. A Choice."""

    sources: tuple[str, ...]

    def __init__(self, *sources: str) -> None:
        object.__setattr__(self, "sources", sources)

    def chosen(self, spec: WeightSpec, present: Collection[str]) -> Recipe:
        return Same(next((source for source in self.sources if source in present), self.sources[0]))


@dataclass(frozen=True)
class Stack:
    """Tensors of equal shape behind one another: [n, ...]."""

    sources: tuple[str, ...]

    def __init__(self, *sources: str) -> None:
        object.__setattr__(self, "sources", sources)

    def reader(self, read: Read, names: Sequence[str], place: Place) -> Reader:
        spec = place.spec
        parts = [read(name, _flat(spec.shape[1:], 1)).reshape(spec.shape[1:]) for name in names]

        def part(index: Index) -> np.ndarray:
            return np.stack([part[index[1:]].astype(spec.dtype, copy=False) for part in parts[index[0]]])

        return part


@dataclass(frozen=True)
class Table(OneTensor):
    """[V', ...]: the vocabulary, then zeros up to a multiple of the devices."""

    def reader(self, read: Read, names: Sequence[str], place: Place) -> Reader:
        spec = place.spec
        table = read(names[0], (place.config.vocab_size, *spec.shape[1:]))

        def part(index: Index) -> np.ndarray:
            rows = table[index].astype(spec.dtype, copy=False)
            missing = len(range(spec.shape[0])[index[0]]) - len(rows)
            return np.concatenate([rows, np.zeros((missing, *rows.shape[1:]), spec.dtype)]) if missing else rows

        return part


@dataclass(frozen=True)
class Heads:
    """[K', G + 2, D, ...]: each kv head's query heads, its key head, its value head; kv heads copied where K' > K.

    From three tensors, or from one that holds them as `fused` says: "parts" one behind another, "heads" head by head
    (of a kv head its queries, its key, its value), "quarters" of the heads, each its queries, values, keys (CodeGen).
    Features of queries and keys are put into the order of the rope.
    """

    sources: tuple[str, ...]
    fused: Literal["", "parts", "heads", "quarters"] = ""
    transposed: bool = False  # [inputs, outputs], as GPT-2 has it

    def reader(self, read: Read, names: Sequence[str], place: Place) -> Reader:
        spec, config = place.spec, place.config
        heads, group, dim, *inputs = spec.shape
        group, kv = group - 2, config.num_kv_heads
        q, k, v = self._parts(read, names, config, dim, tuple(inputs))
        q = q.reshape(heads, group, dim, *inputs)
        order = place.rope.feature_order()

        def part(index: Index) -> np.ndarray:
            mine = range(heads)[index[0]]
            out = np.empty((len(mine), *spec.shape[1:]), spec.dtype)
            for row, head in enumerate(mine):
                out[row, :group] = q[head][:, order]
                out[row, group] = k[head * kv // heads][order]
                out[row, group + 1] = v[head * kv // heads]
            return out[(slice(None), *index[1:])]

        return part

    def _parts(
        self, read: Read, names: Sequence[str], config: ModelConfig, dim: int, inputs: tuple[int, ...]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Queries [H, D, ...], keys and values [K, D, ...]."""
        H, K = config.num_heads, config.num_kv_heads

        def tensor(name: str, heads: int) -> np.ndarray:
            shape = (heads * dim, *inputs)
            return (read(name, shape[::-1]).T if self.transposed else read(name, shape)).reshape(heads, dim, *inputs)

        if not self.fused:
            return tensor(names[0], H), tensor(names[1], K), tensor(names[2], K)
        whole = tensor(names[0], H + 2 * K)
        if self.fused == "parts":
            return whole[:H], whole[H : H + K], whole[H + K :]
        if self.fused == "quarters":
            q, v, k = np.moveaxis(whole.reshape(4, 3, -1, *whole.shape[1:]), 1, 0)
            return q.reshape(-1, *whole.shape[1:]), k.reshape(-1, *whole.shape[1:]), v.reshape(-1, *whole.shape[1:])
        by_head = whole.reshape(K, H // K + 2, dim, *inputs)
        return by_head[:, :-2].reshape(H, dim, *inputs), by_head[:, -2], by_head[:, -1]


@dataclass(frozen=True)
class HeadNorm(OneTensor):
    """[D], of queries or keys, in the order of the rope."""

    plus: float = 0.0

    def reader(self, read: Read, names: Sequence[str], place: Place) -> Reader:
        spec, order = place.spec, place.rope.feature_order()
        tensor = read(names[0], spec.shape)[order].astype(spec.dtype) + np.asarray(self.plus, spec.dtype)
        return lambda index: tensor[index]


@dataclass(frozen=True)
class QkNorms:
    """[K', G + 1, D], from a weight for each feature of each query head and each kv head: [heads, D], flat, or a tensor
    a head, whose number stands for {head} in the name."""

    query: str
    key: str
    flat: bool = False

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.query, self.key)

    def reader(self, read: Read, names: Sequence[str], place: Place) -> Reader:
        spec, config, order = place.spec, place.config, place.rope.feature_order()
        heads, _, dim = spec.shape

        def tensor(name: str, count: int) -> np.ndarray:
            if "{head}" in name:
                return np.stack([read(name.format(head=head), (dim,)) for head in range(count)])[:, order]
            return read(name, (count * dim,) if self.flat else (count, dim)).reshape(count, dim)[:, order]

        q = tensor(names[0], config.num_heads).reshape(heads, -1, dim)
        k = np.repeat(tensor(names[1], config.num_kv_heads), heads // config.num_kv_heads, axis=0)
        weight = np.concatenate([q, k[:, None]], axis=1).astype(spec.dtype)
        return lambda index: weight[index]


def _flat(shape: tuple[int, ...], outputs: int) -> tuple[int, ...]:
    """The shape of a linear layer's tensor: outputs, and inputs if there are any."""
    first, rest = int(np.prod(shape[:outputs])), shape[outputs:]
    return (first, int(np.prod(rest))) if rest else (first,)


def _split_first(tensor: np.ndarray, shape: tuple[int, ...], outputs: int) -> np.ndarray:
    """A view of a transposed tensor in `shape`; only one of its two axes is split."""
    if outputs > 1 and len(shape) - outputs > 1:
        return np.ascontiguousarray(tensor).reshape(shape)
    return tensor.reshape(shape)
