"""What the device remembers between steps: the layers' caches, and per slot its pages, last token and sampler state.

One pytree, donated to every step and returned by it, so that everything is updated in place. `runner.py` owns it.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import NamedSharding

from jaxengine.cache.groups import arrange
from jaxengine.cache.spec import Cache
from jaxengine.models import Model
from jaxengine.sampling import SamplerState
from jaxengine.sharding import replicated


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DeviceState:
    """`slots` rows, and one scratch row more that padding reads and writes."""

    kv: tuple[Cache, ...]  # pools of pages, and arrays by slot (cache/groups.py); what is inside belongs to the layers
    page_table: Array  # [slots + 1, P · groups] int32 pages of each page_size positions, one a group
    last_token: Array  # [slots + 1] int32 the token sampled last
    sampler: SamplerState


@dataclass(frozen=True)
class StateShape:
    """The sizes of a DeviceState."""

    num_pages: int
    slots: int
    pages_per_row: int
    snapshots: int = 0  # recurrent states kept beside those of the slots, behind them


def abstract_state(model: Model, shape: StateShape) -> DeviceState:
    """The state's shapes and shardings, nothing allocated: caches sharded over heads, the rest replicated."""
    everywhere = replicated(model.mesh)
    caches = tuple(spec.partition_spec for spec in arrange(model.cache_specs()).arrays)
    state = jax.eval_shape(functools.partial(_zeros, model, shape))
    shardings = dataclasses.replace(
        jax.tree.map(lambda _: everywhere, state),
        kv=jax.tree.map(functools.partial(NamedSharding, model.mesh), caches),
    )
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings)


def create_state(model: Model, shape: StateShape) -> DeviceState:
    """Allocate the state on the model's mesh, zeroed."""
    shardings = jax.tree.map(lambda x: x.sharding, abstract_state(model, shape))
    return jax.jit(functools.partial(_zeros, model, shape), out_shardings=shardings)()


def device_bytes(tree: object) -> int:
    """Bytes that the (abstract or real) arrays of a pytree take on one device."""

    def size(array: Array | jax.ShapeDtypeStruct) -> int:
        shape = array.shape if array.sharding is None else array.sharding.shard_shape(array.shape)
        return array.dtype.itemsize * functools.reduce(lambda a, b: a * b, shape, 1)

    return sum(size(leaf) for leaf in jax.tree.leaves(tree))


def _zeros(model: Model, shape: StateShape) -> DeviceState:
    places, slots = arrange(model.cache_specs()), shape.slots + shape.snapshots + 1
    caches = tuple(spec.arrays(shape.num_pages, slots) for spec in places.arrays)
    return DeviceState(
        kv=jax.tree.map(lambda array: jnp.zeros(array.shape, array.dtype), caches),
        page_table=jnp.zeros((shape.slots + 1, shape.pages_per_row * places.groups.count), jnp.int32),
        last_token=jnp.zeros((shape.slots + 1,), jnp.int32),
        sampler=SamplerState.create(shape.slots, model.config.vocab_size),
    )
