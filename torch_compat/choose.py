"""Which producer of a Model serves a checkpoint: ours (`families`), or transformers' module through torch.

build.py calls `choose`. The torch side is imported here and nowhere else, and only when it is needed.
"""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from jaxengine.models import Model, UnsupportedModel, build_model
from torch_compat import hf_config, weights

logger = logging.getLogger(__name__)

TORCH_SIDE = ("torch", "torchax", "transformers")


class Loader(Protocol):
    """What reads a model's weights, of a directory or in memory: the module `weights`, or `torch_weights`."""

    def check_weights(self, model: Any, path: Any, load_format: str) -> None: ...

    def load_weights(self, model: Any, path: Any, load_format: str, progress: bool, seed: int) -> dict[str, Array]: ...


@dataclass(frozen=True)
class Wanted:
    """What the user's config says of a model."""

    model_impl: str
    dtype: str
    hf_overrides: dict[str, Any]
    trust_remote_code: bool
    page_size: int
    cache_dtype: jnp.dtype | None


def choose(path: Path, wanted: Wanted, mesh: Mesh) -> tuple[Model, Loader]:
    """The model in `path` on the mesh, and what reads its weights. Raises UnsupportedModel naming what is missing."""
    hf = hf_config.read_config(path, wanted.hf_overrides)
    if wanted.model_impl == "torch":
        return _through_torch(path, hf, wanted, mesh)
    try:
        config = hf_config.load_model_config(path, wanted.dtype, wanted.hf_overrides)
    except UnsupportedModel as ours:
        if wanted.model_impl == "jax":
            raise
        try:
            chosen = _through_torch(path, hf, wanted, mesh)
        except UnsupportedModel as theirs:
            raise UnsupportedModel(f"{ours} Nor through torch: {theirs}") from None
        architecture = next(iter(hf.get("architectures") or ["The model"]))
        logger.warning("%s has no native model here: serving transformers' own, traced through torch.", architecture)
        return chosen
    model = build_model(config, mesh, page_size=wanted.page_size, cache_dtype=wanted.cache_dtype)
    return model, cast(Loader, weights)


def _through_torch(path: Path, hf: dict[str, Any], wanted: Wanted, mesh: Mesh) -> tuple[Model, Loader]:
    for name in TORCH_SIDE:
        try:
            importlib.import_module(name if name != "torchax" else "torch_compat._torchax")
        except ImportError as error:
            raise UnsupportedModel(f"{name} is needed ({error}); install jaxengine[torch].") from None
    from torch_compat import torch_weights
    from torch_compat.module import TorchModel
    from torch_compat.skeleton import load_module

    dtype = hf_config.choose_dtype(wanted.dtype, hf, path)
    module = load_module(path, dtype, overrides=wanted.hf_overrides, trust_remote_code=wanted.trust_remote_code)
    model = TorchModel(module, mesh, wanted.page_size, wanted.cache_dtype)
    return cast(Model, model), cast(Loader, torch_weights)
