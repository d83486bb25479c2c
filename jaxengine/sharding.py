"""Where arrays live: the device mesh, and what each logical axis of a weight means on it.

Weights name their dimensions by logical axes ("vocab", "kv_heads", "mlp", …); this file alone says which of them are
split over devices. Whoever places an array (weights, pools, step inputs) asks here, and NamedShardings are built once.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

TP = "tp"  # mesh axis of tensor parallelism: heads, mlp features and vocabulary are split over it

_MESH_AXIS = {"vocab": TP, "heads": TP, "kv_heads": TP, "mlp": TP, "embed": None, "head_dim": None, None: None}


class ShardingError(ValueError):
    """A model that cannot be split over the devices asked for. The message says what would work."""


def make_mesh(tp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of `tp` devices, the first of `devices` (default: all). Raises ShardingError if there are fewer."""
    devices = jax.devices() if devices is None else list(devices)
    if tp > len(devices):
        raise ShardingError(
            f"tensor_parallel_size={tp} needs {tp} devices, but jax sees {len(devices)} ({devices[0].platform}); "
            f"give tensor_parallel_size={len(devices)} or less."
        )
    return jax.make_mesh((tp,), (TP,), axis_types=(AxisType.Auto,), devices=devices[:tp])


def tp_size(mesh: Mesh) -> int:
    """Devices that share one copy of the model."""
    return mesh.shape[TP]


def partition_spec(axes: tuple[str | None, ...]) -> PartitionSpec:
    """Logical axis of each dimension → PartitionSpec."""
    return PartitionSpec(*(_MESH_AXIS[axis] for axis in axes))


@functools.cache
def named_sharding(mesh: Mesh, axes: tuple[str | None, ...]) -> NamedSharding:
    """Logical axis of each dimension → NamedSharding, built once per mesh."""
    return NamedSharding(mesh, partition_spec(axes))


@functools.cache
def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def kv_heads_on(tp: int, num_heads: int, num_kv_heads: int) -> int:
    """K': kv heads after tensor parallelism; with fewer kv heads than devices, each is copied to tp/K of them.

    Raises ShardingError where heads cannot be split evenly.
    """
    choices = [n for n in range(1, tp) if num_heads % n == 0 and (num_kv_heads % n == 0 or n % num_kv_heads == 0)]
    if num_heads % tp:
        raise ShardingError(
            f"tensor_parallel_size={tp} does not divide the model's {num_heads} attention heads; "
            f"try {_either(choices)}."
        )
    if num_kv_heads % tp and tp % num_kv_heads:
        raise ShardingError(
            f"tensor_parallel_size={tp} neither divides the model's {num_kv_heads} kv heads nor is a multiple of them; "
            f"try {_either(choices)}."
        )
    return max(num_kv_heads, tp)


def check_divides(tp: int, size: int, what: str) -> None:
    """Raise ShardingError unless `size` features can be split over tp devices."""
    if size % tp:
        choices = [n for n in range(1, tp) if size % n == 0]
        raise ShardingError(f"tensor_parallel_size={tp} does not divide {what} ({size}); try {_either(choices)}.")


def padded_to(tp: int, size: int) -> int:
    """The next multiple of tp."""
    return -(-size // tp) * tp


def _either(choices: list[int]) -> str:
    return " or ".join(map(str, choices)) or "1"
