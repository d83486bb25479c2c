"""How tensors of a checkpoint make the weights of latent attention. Used by families/, called as recipes.py says.

Features that turn are the last of a query head and of what makes latents; they are put into the order of the rope.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from torch_compat.recipes import Index, OneTensor, Place, Read, Reader


@dataclass(frozen=True)
class LatentQueries(OneTensor):
    """[H, Dn + Dr, ...] from one tensor of all heads."""

    def reader(self, read: Read, names: Sequence[str], place: Place) -> Reader:
        spec = place.spec
        heads, features, *inputs = spec.shape
        tensor = read(names[0], (heads * features, *inputs)).reshape(spec.shape)
        order = _turning_last(features, place)
        return lambda index: tensor[index[0]][:, order][(slice(None), *index[1:])].astype(spec.dtype, copy=False)


@dataclass(frozen=True)
class Latents:
    """[Rq + R + Dr, ...]: what makes the latent of queries, then that of keys and values, then the key of all heads."""

    query: str
    key_value: str

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.query, self.key_value)

    def reader(self, read: Read, names: Sequence[str], place: Place) -> Reader:
        spec, sizes = place.spec, place.config.latent
        assert sizes is not None
        rows, *inputs = spec.shape
        own = sizes.rank + sizes.rope_dim
        parts = read(names[0], (rows - own, *inputs)), read(names[1], (own, *inputs))[_turning_last(own, place)]
        return lambda index: np.concatenate(parts)[index].astype(spec.dtype, copy=False)


@dataclass(frozen=True)
class QueriesLatents:
    """[devices, H/devices · (Dn + Dr) + R + Dr, ...]: of each device its heads' queries, then all that makes latents; a
    bias of the latents alone, behind zeros."""

    query: str | None
    key_value: str

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.query, self.key_value) if self.query else (self.key_value,)

    def reader(self, read: Read, names: Sequence[str], place: Place) -> Reader:
        spec, sizes, H = place.spec, place.config.latent, place.config.num_heads
        assert sizes is not None
        devices, _, *inputs = spec.shape
        own, head = sizes.rank + sizes.rope_dim, sizes.nope_dim + sizes.rope_dim
        latents = read(names[-1], (own, *inputs))[_turning_last(own, place)]
        tensor = read(names[0], (H * head, *inputs)) if len(names) > 1 else None
        q = None if tensor is None else tensor.reshape(devices, H // devices, head, *inputs)
        order = _turning_last(head, place)

        def part(index: Index) -> np.ndarray:
            mine = range(devices)[index[0]]
            out = np.zeros((len(mine), *spec.shape[1:]), spec.dtype)
            for row, device in enumerate(mine):
                out[row, -own:] = latents
                if q is not None:
                    out[row, :-own] = q[device][:, order].reshape(-1, *inputs)
            return out[(slice(None), *index[1:])]

        return part


@dataclass(frozen=True)
class FromLatents(OneTensor):
    """[H, Dn, R] or [H, Dv, R] from the tensor that makes each head's keys and values."""

    part: Literal["keys", "values"]

    def reader(self, read: Read, names: Sequence[str], place: Place) -> Reader:
        spec = place.spec
        heads, _, rank = spec.shape
        sizes = place.config.latent
        assert sizes is not None
        both = sizes.nope_dim + sizes.value_dim
        tensor = read(names[0], (heads * both, rank)).reshape(heads, both, rank)
        part = tensor[:, : sizes.nope_dim] if self.part == "keys" else tensor[:, sizes.nope_dim :]
        return lambda index: part[index].astype(spec.dtype, copy=False)


def _turning_last(features: int, place: Place) -> np.ndarray:
    """The checkpoint's feature at each place, where those that turn are the last."""
    order = place.rope.feature_order()
    still = features - len(order)
    return np.concatenate([np.arange(still), still + order])
