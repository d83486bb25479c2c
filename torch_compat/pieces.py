"""Recipes for tensors that hold several things behind one another, where we keep what is of one head or group together.

Used by families/ of recurrent models; see recipes.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from jaxengine.layers.gated_delta import DeltaSizes
from jaxengine.layers.mamba2 import MambaSizes
from jaxengine.models import ModelConfig, WeightSpec
from torch_compat.expert_recipes import EachExpert, FusedExperts
from torch_compat.recipes import Heads, Index, OneTensor, Place, Read, Reader, Recipe

Stretch = tuple[int, int, int]  # which of the sources, the first row, how many rows


@dataclass(frozen=True)
class Pieces:
    """[n, rows, inputs...]: at each of n places some stretches of the tensors' rows behind one another."""

    sources: tuple[str, ...]
    rows: Callable[[ModelConfig], tuple[int, ...]]  # of each source
    cut: Callable[[ModelConfig, int, int], Sequence[Stretch]]  # of a place, and how many places there are
    conv: bool = False  # the tensors are a Conv1d's: [rows, 1, width]

    def reader(self, read: Read, names: Sequence[str], place: Place) -> Reader:
        spec, config = place.spec, place.config
        n, _, *inputs = spec.shape
        middle = (1,) if self.conv else ()
        tensors = [
            read(name, (rows, *middle, *inputs)).reshape(rows, *inputs)
            for name, rows in zip(names, self.rows(config), strict=True)
        ]

        def part(index: Index) -> np.ndarray:
            found = []
            for i in range(n)[index[0]]:
                stretches = [tensors[k][start : start + count] for k, start, count in self.cut(config, i, n)]
                found.append(np.concatenate(stretches).astype(spec.dtype, copy=False))
            return np.stack(found)[(slice(None), *index[1:])]

        return part


@dataclass(frozen=True)
class FusedOrEach:
    """Experts from the one tensor that holds them all, where the checkpoint has it, else from a tensor each."""

    fused: FusedExperts
    each: EachExpert

    @property
    def sources(self) -> tuple[str, ...]:
        return self.fused.sources

    def chosen(self, spec: WeightSpec, present: Collection[str]) -> Recipe:
        return self.fused if self.fused.source in present else self.each.chosen(spec, present)


@dataclass(frozen=True)
class Depthwise(OneTensor):
    """[channels, width], from a Conv1d's [channels, 1, width]."""

    def reader(self, read: Read, names: Sequence[str], place: Place) -> Reader:
        spec = place.spec
        channels, width = spec.shape
        tensor = read(names[0], (channels, 1, width))[:, 0]
        return lambda index: tensor[index].astype(spec.dtype, copy=False)


@dataclass(frozen=True)
class GatedHeads(Heads):
    """Heads whose query tensor holds each head's query and then its gate."""

    def _parts(
        self, read: Read, names: Sequence[str], config: ModelConfig, dim: int, inputs: tuple[int, ...]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        H, K = config.num_heads, config.num_kv_heads
        q = read(names[0], (H * 2 * dim, *inputs)).reshape(H, 2, dim, *inputs)[:, 0]
        k, v = (read(name, (K * dim, *inputs)).reshape(K, dim, *inputs) for name in names[1:])
        return q, k, v


def head_gates(source: str) -> Pieces:
    """[H, D, E]: the gates of such a query tensor."""

    def cut(config: ModelConfig, head: int, heads: int) -> list[Stretch]:
        D = config.head_dim
        return [(0, (2 * head + 1) * D, D)]

    return Pieces((source,), lambda config: (config.num_heads * 2 * config.head_dim,), cut)


def delta_input(*sources: str) -> Pieces:
    """Gated DeltaNet's first product by key head, from two tensors that lie by key head themselves (Qwen3-Next), or
    from four that hold all queries, then all keys and values; gates; betas; decays (Qwen3.5)."""

    def rows(config: ModelConfig) -> tuple[int, ...]:
        s = _delta(config)
        totals = [s.key_heads * part for part in s.parts]
        return (sum(totals[:4]), sum(totals[4:])) if len(sources) == 2 else (sum(totals[:3]), *totals[3:])

    def cut(config: ModelConfig, head: int, heads: int) -> list[Stretch]:
        parts = _delta(config).parts
        if len(sources) == 2:
            return [(0, head * sum(parts[:4]), sum(parts[:4])), (1, head * sum(parts[4:]), sum(parts[4:]))]
        return _stretches(parts[:3], head, heads) + [(i - 2, head * parts[i], parts[i]) for i in (3, 4, 5)]

    return Pieces(sources, rows, cut)


def delta_conv(source: str) -> Pieces:
    """Its convolution, over all queries, then all keys, then all values."""

    def cut(config: ModelConfig, head: int, heads: int) -> list[Stretch]:
        return _stretches(_delta(config).parts[:3], head, heads)

    return Pieces((source,), lambda config: (_delta(config).key_heads * _delta(config).convolved,), cut, conv=True)


def mamba_input(source: str) -> Pieces:
    """Mamba 2's first product by group, from one tensor: gates, x, b, c and dt of all groups."""

    def rows(config: ModelConfig) -> tuple[int, ...]:
        s = _mamba(config)
        return (2 * s.heads * s.head_dim + 2 * s.groups * s.state_size + s.heads,)

    def cut(config: ModelConfig, group: int, groups: int) -> list[Stretch]:
        s = _mamba(config)
        inner = s.heads * s.head_dim
        gates, dt = inner // groups, s.heads // groups
        gate = (0, group * gates, gates)
        last = (0, 2 * inner + 2 * s.groups * s.state_size + group * dt, dt)
        return [*_convolved(s, inner, group, groups), gate, last]

    return Pieces((source,), rows, cut)


def mamba_conv(source: str, bias: bool = False) -> Pieces:
    """Its convolution, or the bias of that, over x, b and c of all groups."""

    def rows(config: ModelConfig) -> tuple[int, ...]:
        s = _mamba(config)
        return (s.heads * s.head_dim + 2 * s.groups * s.state_size,)

    def cut(config: ModelConfig, group: int, groups: int) -> list[Stretch]:
        return _convolved(_mamba(config), 0, group, groups)

    return Pieces((source,), rows, cut, conv=not bias)


def _convolved(s: MambaSizes, start: int, group: int, groups: int) -> list[Stretch]:
    """x, b and c of one of `groups` groups, where x begins at row `start`; b and c are of the model's own group."""
    inner, N = s.heads * s.head_dim, s.state_size
    own = group * s.groups // groups
    b = start + inner + own * N
    return [(0, start + group * inner // groups, inner // groups), (0, b, N), (0, b + s.groups * N, N)]


def _stretches(parts: Sequence[int], head: int, heads: int) -> list[Stretch]:
    """One head's share of parts that lie behind one another, each for all heads."""
    found, start = [], 0
    for size in parts:
        found.append((0, start + head * size, size))
        start += heads * size
    return found


def _delta(config: ModelConfig) -> DeltaSizes:
    assert isinstance(config.recurrent, DeltaSizes)
    return config.recurrent


def _mamba(config: ModelConfig) -> MambaSizes:
    assert isinstance(config.recurrent, MambaSizes)
    return config.recurrent
