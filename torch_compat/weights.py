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
from torch_compat.checkpoint import Checkpoint, CheckpointError, open_checkpoint
from torch_compat.families import FAMILIES, Family
from torch_compat.recipes import Choice, Index, Place, Reader, Recipe

TEXT_PARTS = (  # how models that also see spell the names of their language model, as released and in memory
    {"model.": "language_model.model.", "lm_head.": "language_model.lm_head."},
    {"model.": "model.language_model."},
    {"model.": "model."},
)
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
        return name, placed(model, specs[name], readers[name]).block_until_ready()

    with (
        tqdm(total=total, unit="B", unit_scale=True, desc="Loading weights", disable=not progress) as bar,
        ThreadPoolExecutor(LOAD_THREADS) as pool,
    ):
        for name, array in pool.map(load, specs):
            weights[name] = array
            bar.update(specs[name].nbytes)
    return weights


def placed(model: Model, spec: WeightSpec, reader: Reader) -> Array:
    """The array that a reader reads, each device's part on that device."""
    sharding = named_sharding(model.mesh, spec.axes)
    return jax.make_array_from_callback(spec.shape, sharding, lambda index: reader(_bounded(index, spec)))


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


def _readers(model: Model, path: str | Path) -> dict[str, Reader]:
    """Of each weight. Every tensor is there with its shape, and none is left over."""
    checkpoint = open_checkpoint(path) if isinstance(path, str | Path) else path
    config, specs = model.config, model.weight_specs()
    family = FAMILIES[config.architecture]
    spelt = spelling(checkpoint, family)
    used: set[str] = set(map(spelt, family.outer["head"].sources))  # some save it although it is tied
    readers = {}

    def read(name: str, shape: tuple[int, ...]) -> np.ndarray:
        used.add(name)
        return checkpoint.read(name, shape)

    for name, spec in specs.items():
        recipe, names, layer = located(checkpoint, family, spelt, name, spec)
        readers[name] = recipe.reader(read, names, Place(spec, config, layer))
    _check_all_used(checkpoint, family, config, used, spelt)
    if config.tie_embeddings:
        shape = (config.vocab_size, *specs["embed"].shape[1:])
        _check_tied(checkpoint, shape, *(spelt(family.outer[name].sources[0]) for name in ("embed", "head")))
    return readers


def located(
    held: Checkpoint, family: Family, spelt: Callable[[str], str], name: str, spec: WeightSpec
) -> tuple[Recipe, list[str], int]:
    """How one of our weights is made of the tensors held: its recipe, their names, its layer (-1 outside of layers)."""
    recipe, prefix, layer = _recipe(family, name)
    if isinstance(recipe, Choice):
        recipe = recipe.chosen(spec, {source for source in recipe.sources if spelt(prefix + source) in held})
    return recipe, [spelt(prefix + source) for source in recipe.sources], layer


def _recipe(family: Family, name: str) -> tuple[Recipe | Choice, str, int]:
    """Of one of our weights: its recipe, the prefix of its sources, and its layer."""
    if not name.startswith("layers."):
        return family.outer[name], "", -1
    _, i, short = name.split(".", 2)
    return family.layer[short], family.layer_prefix.format(i=i), int(i)


def spelling(checkpoint: Checkpoint, family: Family) -> Callable[[str], str]:
    """How this checkpoint spells the families' names: it may be of the bare model, or of one that also sees."""
    changes = {family.prefix: ""} if family.prefix and not checkpoint.has(family.prefix) else {}
    if family.text_part:
        changes = next((names for names in TEXT_PARTS if checkpoint.has(names["model."])), TEXT_PARTS[0])

    def name(ours: str) -> str:
        beginning = next((beginning for beginning in changes if ours.startswith(beginning)), "")
        return changes.get(beginning, "") + ours.removeprefix(beginning)

    return name


def _check_all_used(
    checkpoint: Checkpoint, family: Family, config: ModelConfig, used: set[str], spelt: Callable[[str], str]
) -> None:
    """A tensor that the model would silently ignore (a bias, a scale) would make it answer wrongly."""
    layers = tuple(spelt(family.layer_prefix.format(i=i)) for i in range(config.num_layers))
    beyond = spelt(family.layer_prefix.split("{")[0])  # more layers than config.json asks for are left alone
    within = spelt("model.") if family.text_part else ""  # what lies beside the language model as well
    for name in checkpoint:
        unwanted = name.endswith(family.unused) or name.startswith(family.beside) or not name.startswith(within)
        if name in used or unwanted:
            continue
        if name.startswith(layers) or not name.startswith(beyond):
            raise CheckpointError(
                f"{checkpoint.tensors[name].file}: tensor {name!r} has no place in a {config.architecture} "
                "with this config.json."
            )


def _check_tied(checkpoint: Checkpoint, shape: tuple[int, ...], embed: str, head: str) -> None:
    """A head of its own, said to be the embedding, would be left out and the model answer wrongly; a few rows tell."""
    if head in checkpoint:
        rows = np.linspace(0, shape[0] - 1, 16, dtype=int)
        if not np.array_equal(checkpoint.read(embed, shape)[rows], checkpoint.read(head, shape)[rows]):
            raise CheckpointError(
                f"config.json says that the head is the embedding, but {head!r} differs from {embed!r}; "
                "give hf_overrides={'tie_word_embeddings': false} to use it."
            )


def _bounded(index: Index | None, spec: WeightSpec) -> Index:
    """The same part with its bounds written out."""
    whole = (slice(None),) * len(spec.shape)
    return tuple(slice(*part.indices(size)) for part, size in zip(index or whole, spec.shape, strict=True))
