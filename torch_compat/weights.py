"""A checkpoint's tensors → the model's weights on its mesh, fused, cast and sharded on the way. Called by build.py.

Each device's slice is cut out of the mapped file and sent to that device alone; nothing whole is ever made on the host.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh
from tqdm import tqdm

from jaxengine.models import Model, ModelConfig, WeightSpec
from jaxengine.sharding import named_sharding
from torch_compat.checkpoint import Checkpoint, CheckpointError
from torch_compat.families import LAYER, LAYER_PREFIX, OUTER, UNUSED

Index = tuple[slice, ...]  # one device's part of an array
LOAD_THREADS = 8  # enough to keep a disk, the page cache and a copy to the device busy at once


def load_weights(
    model: Model, path: str | Path, load_format: str = "auto", progress: bool = True, seed: int = 0
) -> dict[str, Array]:
    """Flat name → array for every weight the model asks for, placed on its mesh.

    load_format: "auto" and "safetensors" read the files in `path`, "dummy" makes random weights from `seed`.
    Raises CheckpointError naming the file and tensor.
    """
    if load_format == "dummy":
        return dummy_weights(model, seed)
    if load_format not in ("auto", "safetensors"):
        raise ValueError(f"load_format={load_format!r} is not one of auto, safetensors, dummy.")
    specs, readers = model.weight_specs(), _readers(model, path)
    total = sum(spec.nbytes for spec in specs.values())
    weights = {}

    def load(name: str) -> tuple[str, Array]:
        spec = specs[name]
        sharding = named_sharding(model.mesh, spec.axes)
        array = jax.make_array_from_callback(spec.shape, sharding, lambda index: readers[name](_bounded(index, spec)))
        return name, array.block_until_ready()

    with (
        tqdm(total=total, unit="B", unit_scale=True, desc="Loading weights", disable=not progress) as bar,
        ThreadPoolExecutor(LOAD_THREADS) as pool,
    ):
        for name, array in pool.map(load, specs):
            weights[name] = array
            bar.update(specs[name].nbytes)
    return weights


def check_weights(model: Model, path: str | Path, load_format: str = "auto") -> None:
    """Raises what load_weights would, from the files' headers alone: milliseconds instead of a compilation."""
    if load_format != "dummy":
        _readers(model, path)


def dummy_weights(model: Model, seed: int = 0) -> dict[str, Array]:
    """Random normal weights made on the devices, the same for the same seed; norms are ones. One program per shape."""
    specs = model.weight_specs()
    with ThreadPoolExecutor(LOAD_THREADS) as pool:
        shapes = list(set(specs.values()))
        programs = dict(zip(shapes, pool.map(functools.partial(_normal, model.mesh), shapes), strict=True))
    return {name: programs[spec](np.uint32(seed), np.uint32(zlib.crc32(name.encode()))) for name, spec in specs.items()}


@functools.lru_cache(maxsize=64)
def _normal(mesh: Mesh, spec: WeightSpec) -> Callable[[np.uint32, np.uint32], Array]:
    def make(seed: Array, name: Array) -> Array:
        if spec.scale is None:
            return jnp.ones(spec.shape, spec.dtype)
        return (_bell(spec.shape, _scramble(seed ^ _scramble(name))) * spec.scale).astype(spec.dtype)

    number = jax.ShapeDtypeStruct((), np.uint32)
    return jax.jit(make, out_shardings=named_sharding(mesh, spec.axes)).lower(number, number).compile()


def _bell(shape: tuple[int, ...], seed: Array) -> Array:
    """Nearly normal numbers, mean 0 and deviation 1: the sum of four random bytes (an Irwin-Hall distribution).

    A hash of each element's place: it compiles in a fifth of the time of jax.random.normal and is the same on any mesh.
    """
    place = jnp.zeros(shape, jnp.uint32)
    for axis, size in enumerate(shape):
        place = place * np.uint32(size) + lax.broadcasted_iota(jnp.uint32, shape, axis)
    bits = _scramble(place ^ seed)
    total = sum((bits >> np.uint32(shift) & np.uint32(255)).astype(jnp.float32) for shift in (0, 8, 16, 24))
    return (total - 4 * 127.5) / (4 * (256**2 - 1) / 12) ** 0.5


def _scramble(x: Array) -> Array:
    """A bijection of uint32 whose every output bit depends on every input bit (the finalizer of MurmurHash3)."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    return x ^ (x >> np.uint32(16))


def _readers(model: Model, path: str | Path) -> dict[str, Callable[[Index], np.ndarray]]:
    """Of each weight. Every tensor is there with its shape, and none is left over."""
    checkpoint, specs = Checkpoint(path), model.weight_specs()
    readers = {name: _reader(checkpoint, model.config, name, spec) for name, spec in specs.items()}
    _check_all_used(checkpoint, model.config, specs)
    return readers


def _reader(checkpoint: Checkpoint, config: ModelConfig, name: str, spec: WeightSpec) -> Callable[[Index], np.ndarray]:
    """How to read any part of a weight. Checks the tensors' presence and shapes at once."""
    sources, short = _sources(name), name.rsplit(".", 1)[-1]
    if short in ("qkv", "qkv_bias"):
        return _qkv_reader(checkpoint, config, sources, spec)
    if short in ("gate_up", "gate_up_bias"):
        return _stack_reader(checkpoint, sources, spec)
    if short in ("embed", "head"):
        return _table_reader(checkpoint, config, sources[0], spec)
    flat = (spec.shape[0], *([int(np.prod(spec.shape[1:]))] if len(spec.shape) > 1 else []))
    tensor = checkpoint.read(sources[0], flat).reshape(spec.shape)
    return lambda index: tensor[index].astype(spec.dtype, copy=False)


def _qkv_reader(
    checkpoint: Checkpoint, config: ModelConfig, sources: tuple[str, ...], spec: WeightSpec
) -> Callable[[Index], np.ndarray]:
    """[K', G + 2, D, ...]: each kv head's query heads, its key head, its value head; kv heads copied where K' > K."""
    heads, group, dim, *inputs = spec.shape
    group, kv = group - 2, config.num_kv_heads
    q = checkpoint.read(sources[0], (config.num_heads * dim, *inputs)).reshape(heads, group, dim, *inputs)
    k, v = (checkpoint.read(source, (kv * dim, *inputs)).reshape(kv, dim, *inputs) for source in sources[1:])

    def read(index: Index) -> np.ndarray:
        mine = range(heads)[index[0]]
        out = np.empty((len(mine), *spec.shape[1:]), spec.dtype)
        for row, head in enumerate(mine):
            out[row, :group] = q[head]
            out[row, group] = k[head * kv // heads]
            out[row, group + 1] = v[head * kv // heads]
        return out[(slice(None), *index[1:])]

    return read


def _stack_reader(checkpoint: Checkpoint, sources: tuple[str, ...], spec: WeightSpec) -> Callable[[Index], np.ndarray]:
    """[2, F, ...]: gate, then up."""
    parts = [checkpoint.read(source, spec.shape[1:]) for source in sources]

    def read(index: Index) -> np.ndarray:
        return np.stack([part[index[1:]].astype(spec.dtype, copy=False) for part in parts[index[0]]])

    return read


def _table_reader(
    checkpoint: Checkpoint, config: ModelConfig, source: str, spec: WeightSpec
) -> Callable[[Index], np.ndarray]:
    """[V', E]: the vocabulary, then rows of zeros up to a multiple of the devices."""
    table = checkpoint.read(source, (config.vocab_size, *spec.shape[1:]))

    def read(index: Index) -> np.ndarray:
        rows = table[index].astype(spec.dtype, copy=False)
        missing = len(range(spec.shape[0])[index[0]]) - len(rows)
        return np.concatenate([rows, np.zeros((missing, *rows.shape[1:]), spec.dtype)]) if missing else rows

    return read


def _sources(name: str) -> tuple[str, ...]:
    if not name.startswith("layers."):
        return OUTER[name]
    _, i, short = name.split(".", 2)
    return tuple(LAYER_PREFIX.format(i=i) + source for source in LAYER[short])


def _check_all_used(checkpoint: Checkpoint, config: ModelConfig, specs: dict[str, WeightSpec]) -> None:
    """A tensor that the model would silently ignore (a bias, a scale) would make it answer wrongly."""
    used = {source for name in specs for source in _sources(name)} | set(OUTER["head"])
    layers = tuple(LAYER_PREFIX.format(i=i) for i in range(config.num_layers))
    for name in checkpoint:
        within = name.startswith(layers) or not name.startswith(LAYER_PREFIX.split("{")[0])
        if within and name not in used and not name.endswith(UNUSED):
            raise CheckpointError(
                f"{checkpoint.tensors[name].file}: tensor {name!r} has no place in a {config.architecture} "
                "with this config.json."
            )


def _bounded(index: Index | None, spec: WeightSpec) -> Index:
    """The same part with its bounds written out."""
    whole = (slice(None),) * len(spec.shape)
    return tuple(slice(*part.indices(size)) for part, size in zip(index or whole, spec.shape, strict=True))
