"""Weights of a TorchModel: from a checkpoint, a state dict, or made up. Called by build.py and live.py.

Names and shapes of a checkpoint are turned into the module's by transformers' own rules (renamed keys, experts that are
stacked, projections that are split); what needs no more than a name is read from the mapped file, each device its part.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jax import Array
from tqdm import tqdm
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

from jaxengine.models import WeightSpec
from jaxengine.sharding import named_sharding
from torch_compat import weights
from torch_compat.checkpoint import Checkpoint, CheckpointError
from torch_compat.module import TorchModel
from torch_compat.torch_files import TorchFiles, numpy_view, torch_files, torch_view_of

logger = logging.getLogger(__name__)


class Tensors(Protocol):
    """Where tensors come from: a checkpoint or a state dict."""

    def __iter__(self) -> Any: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def array(self, name: str) -> np.ndarray: ...


@dataclass
class Group:
    """Tensors of a checkpoint that together make one or more weights. No converter: one makes one."""

    targets: tuple[str, ...]  # of tied weights the one that we keep
    converter: WeightConverter | None
    sources: list[tuple[str, str]] = field(default_factory=list)  # name, and the converter's pattern that it matched


def load_weights(
    model: TorchModel,
    path: str | Path | Tensors,
    load_format: str = "auto",
    progress: bool = True,
    seed: int = 0,
) -> dict[str, Array]:
    """See weights.load_weights; path may be tensors in memory; load_format "pt" reads torch's own files."""
    if load_format == "dummy":
        return weights.dummy_weights(model, seed) | {
            name: _place(model, name, made) for name, made in model.made.items()
        }
    return place_weights(model, _open(path, load_format), progress)


def check_weights(model: TorchModel, path: str | Path | Tensors, load_format: str = "auto") -> None:
    """Raises what load_weights would raise of names and shapes, before anything is read."""
    if load_format != "dummy":
        _groups(model, _open(path, load_format))


def place_weights(model: TorchModel, tensors: Tensors, progress: bool = False) -> dict[str, Array]:
    """All weights on the model's mesh. Raises CheckpointError for a tensor that is missing or has another shape."""
    groups = _groups(model, tensors)
    placed = {name: _place(model, name, made) for name, made in model.made.items()}
    with (
        tqdm(total=len(groups), desc="Loading weights", disable=not progress) as bar,
        ThreadPoolExecutor(weights.LOAD_THREADS) as pool,
    ):
        for arrays in pool.map(lambda group: place_group(model, group, tensors), groups):
            placed |= arrays
            bar.update()
    return placed


def place_group(model: TorchModel, group: Group, tensors: Tensors) -> dict[str, Array]:
    """The weights that a group makes."""
    if group.converter is None:
        return {group.targets[0]: _place(model, group.targets[0], tensors.array(group.sources[0][0]))}
    converter: Any = copy.deepcopy(group.converter)
    for name, pattern in group.sources:
        converter.add_tensor(group.targets[0], name, pattern, torch_view_of(tensors.array(name)))
    made = converter.convert(group.targets[0], model=model.outline, config=model.outline.config)
    arrays = {}
    for name, tensor in made.items():
        array = numpy_view(tensor[0] if isinstance(tensor, list) else tensor)
        name = model.aliases.get(name, name)
        arrays[name] = _place(model, name, array)
    return arrays


def group_tensors(model: TorchModel, names: Iterable[str]) -> list[Group]:
    """What each tensor of a checkpoint is for. Those that the model has no place for are left out."""
    module: Any = model.outline
    mapping = get_model_conversion_mapping(module)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    known, prefix = module.state_dict(), module.base_model_prefix
    groups: dict[str, Group] = {}
    ignored = []
    for name in sorted(names, key=dot_natural_key):
        target, pattern = rename_source_key(name, renamings, converters, prefix, known)
        if target not in known and name in known:
            target, pattern = rename_source_key(name, [], [], prefix, known)
        if target not in known:
            ignored.append(name)
            continue
        if pattern is None:
            groups[target] = Group((model.aliases.get(target, target),), None, [(name, name)])
        else:
            converter = by_pattern[pattern]
            first, *others = converter.target_patterns
            targets = (target, *(target.replace(first, other) for other in others))
            groups.setdefault(target, Group(targets, converter)).sources.append((name, pattern))
    if ignored:
        logger.info("%d tensors have no place in %s: %s, …", len(ignored), model.config.architecture, ignored[0])
    return list(groups.values())


def _groups(model: TorchModel, tensors: Tensors) -> list[Group]:
    """Of all weights, each once. Checks names, and shapes where a tensor is taken as it is."""
    specs = model.weight_specs()
    groups = {group.targets: group for group in group_tensors(model, tensors)}  # of tied weights the last
    made = set(model.made).union(*groups)
    for name in specs:
        if name not in made:
            raise CheckpointError(f"no tensor of the checkpoint makes {name!r} of a {model.config.architecture}.")
    return check_groups(model, list(groups.values()), tensors)


def check_groups(model: TorchModel, groups: list[Group], tensors: Tensors) -> list[Group]:
    """The same groups. Raises CheckpointError where a tensor that is taken as it is has another shape."""
    for group in groups:
        if group.converter is None and group.targets[0] in model.shapes:
            target, (source, _) = group.targets[0], group.sources[0]
            stored, wanted = tensors.shape(source), model.shapes[target]
            if stored != wanted:
                raise CheckpointError(
                    f"tensor {source!r} has shape {list(stored)}, but config.json asks for {list(wanted)}."
                )
    return groups


def _place(model: TorchModel, name: str, array: np.ndarray) -> Array:
    """An array of the module's shape → the weight on the mesh, each device its part."""
    spec: WeightSpec = model.weight_specs()[name]
    if array.size != np.prod(spec.shape):
        raise CheckpointError(f"{name!r} has shape {list(array.shape)}, and {list(spec.shape)} is wanted.")
    whole = array.reshape(spec.shape)
    read: Callable[[Any], np.ndarray] = lambda index: whole[index].astype(spec.dtype, copy=False)  # noqa: E731
    return jax.make_array_from_callback(spec.shape, named_sharding(model.mesh, spec.axes), read)


class _Safetensors(Checkpoint):
    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def array(self, name: str) -> np.ndarray:
        return self.read(name, self.tensors[name].shape)


def _open(path: str | Path | Tensors, load_format: str) -> Tensors:
    if not isinstance(path, str | Path):
        return path
    path = Path(path)
    if load_format not in ("auto", "safetensors", "pt"):
        raise ValueError(f"load_format={load_format!r} is not one of auto, safetensors, pt, dummy.")
    mapped = any(path.glob("*.safetensors"))
    if load_format == "pt" or (load_format == "auto" and not mapped and torch_files(path)):
        return TorchFiles(path)
    return _Safetensors(path)
