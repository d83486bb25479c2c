"""Weights that are already in memory: of a live torch module, or new ones for a running engine.

build.py calls `describe` for LLM.from_torch and `updated` for LLM.update_weights. Names are the checkpoint's, and what
is fused, stacked or transposed for our models is so here as well, by the same recipes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array

from jaxengine.models import Model
from torch_compat import weights
from torch_compat.checkpoint import CheckpointError, Tensor
from torch_compat.families import FAMILIES
from torch_compat.recipes import Place, Reader

GIVEN = Path("the given weights")  # in the place of a file's name in messages


class LiveTensors:
    """Arrays by name, of torch, numpy or jax, that look like a checkpoint to whoever reads weights."""

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        self.arrays, self.directory = arrays, GIVEN
        self.tensors = {name: Tensor(GIVEN, np.dtype(np.void), self.shape(name), 0) for name in arrays}

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def has(self, beginning: str) -> bool:
        """Whether any name begins so."""
        return any(name.startswith(beginning) for name in self.arrays)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.arrays[name].shape)

    def array(self, name: str) -> np.ndarray:
        """As numpy sees it. On a CPU a copy: jax would share the memory, and a training step would change it."""
        array = self.arrays[name]
        if hasattr(array, "detach"):
            from torch_compat.torch_files import numpy_view

            array = numpy_view(array)
        return np.array(array) if jax.default_backend() == "cpu" else np.asarray(array)

    def read(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """An array, which must have this shape."""
        if name not in self.arrays:
            raise CheckpointError(f"{GIVEN}: no {name!r} of shape {list(shape)}.")
        if self.shape(name) != shape:
            raise CheckpointError(f"{GIVEN}: {name!r} has shape {list(self.shape(name))}, not {list(shape)}.")
        return self.array(name)


def describe(module: Any, tokenizer: Any, directory: Path) -> LiveTensors:
    """Write what a checkpoint's directory has beside weights; the module's weights under a checkpoint's names.

    module: a causal language model of transformers. tokenizer: of transformers, or None.
    """
    from transformers.core_model_loading import revert_weight_conversion

    config = copy.deepcopy(module.config)
    config.architectures = [type(module).__name__]
    config.save_pretrained(directory)
    if getattr(module, "generation_config", None) is not None:
        module.generation_config.save_pretrained(directory)
    if tokenizer is not None:
        tokenizer.save_pretrained(directory)
    return LiveTensors(revert_weight_conversion(module, module.state_dict()))


def updated(model: Model, pairs: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Array]]:
    """(name, new array) of each weight of the model that the pairs change, placed like the old one.

    Names and shapes are checked before the first comes. What is one weight here must come together: queries, keys and
    values of a layer, say. Raises CheckpointError.
    """
    given = LiveTensors(dict(pairs))
    return _torch(model, given) if hasattr(model, "module") else _native(model, given)


def _native(model: Model, given: LiveTensors) -> Iterator[tuple[str, Array]]:
    config, specs = model.config, model.weight_specs()
    family = FAMILIES[config.architecture]
    spelt = weights.spelling(given, family)  # type: ignore[arg-type]
    used = set(map(spelt, family.outer["head"].sources))
    readers: dict[str, Reader] = {}

    def read(name: str, shape: tuple[int, ...]) -> np.ndarray:
        used.add(name)
        return given.read(name, shape)

    for name, spec in specs.items():
        recipe, names, layer = weights.located(given, family, spelt, name, spec)  # type: ignore[arg-type]
        here = next((each for each in names if each in given), None)
        if here is None:
            continue
        if missing := [each for each in names if each not in given]:
            raise CheckpointError(f"{GIVEN}: {here!r} must come with {missing[0]!r}: they are one weight here.")
        readers[name] = recipe.reader(read, names, Place(spec, config, layer))
    if unknown := [name for name in given if name not in used and not name.endswith(family.unused)]:
        raise CheckpointError(f"{GIVEN}: {unknown[0]!r} has no place in a {config.architecture}.")

    def place() -> Iterator[tuple[str, Array]]:
        for name, reader in readers.items():
            yield name, weights.placed(model, specs[name], reader)

    return place()


def _torch(model: Any, given: LiveTensors) -> Iterator[tuple[str, Array]]:
    from torch_compat import torch_weights

    groups = torch_weights.group_tensors(model, given)
    placed = {source for group in groups for source, _ in group.sources}
    if unknown := [name for name in given if name not in placed]:
        raise CheckpointError(f"{GIVEN}: {unknown[0]!r} has no place in a {model.config.architecture}.")
    torch_weights.check_groups(model, groups, given)

    def place() -> Iterator[tuple[str, Array]]:
        for group in groups:
            yield from torch_weights.place_group(model, group, given).items()

    return place()
