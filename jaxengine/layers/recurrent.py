"""What mixers that keep a state by slot have in common: between their products, each device works on its own share.

Called by gated_delta.py, mamba2.py and short_conv.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxengine.cache.recurrent import RecurrentCacheSpec
from jaxengine.layers.block import StepInputs
from jaxengine.layers.weight_spec import WeightSpec
from jaxengine.sharding import TP, partition_spec

States = dict[str, Array]
OnDevice = Callable[[dict[str, Array], Array, States, StepInputs], tuple[Array, States]]


def on_devices(
    run: OnDevice,  # weights by name, mixed, states, step → what the second product reads, and the states
    mesh: Mesh,
    weights: dict[str, Array],
    specs: Mapping[str, WeightSpec],  # of these weights
    names: tuple[str, ...],  # of those that `run` reads, where the model has them
    mixed: Array,  # what the first product makes
    split: int,  # the axis of `mixed` that is split over devices; of the result it is axis 1
    states: States,
    cache: RecurrentCacheSpec,
    step: StepInputs,
) -> tuple[Array, States]:
    """`run` on every device with its part of everything; the step is whole everywhere."""
    splits = {name: partition_spec(specs[name].axes) for name in names if name in specs}
    shared = jax.shard_map(
        run,
        mesh=mesh,
        in_specs=(splits, P(*(None,) * split, TP), cache.partition_spec, P()),
        out_specs=(P(None, TP), cache.partition_spec),
        check_vma=False,  # kernels do not say how their results vary over the mesh
    )
    return shared({name: weights[name] for name in splits}, mixed, states, step)
