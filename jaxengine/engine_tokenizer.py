"""The tokenizer that an engine of some configuration has, for every process that needs it beside the engine's."""

from __future__ import annotations

from pathlib import Path

from jaxengine.config import EngineConfig
from jaxengine.tokenizer import Tokenizer


def engine_tokenizer(config: EngineConfig) -> Tokenizer | None:
    """Read from the model's files, downloaded if need be; None where the engine works with token ids only."""
    from torch_compat import hub

    if config.skip_tokenizer_init:
        return None
    if config.tokenizer is None:
        return Tokenizer.load(hub.resolve(config.model, config.revision))
    return Tokenizer.load(hub.resolve(config.tokenizer, config.tokenizer_revision))


def is_local(model: str) -> bool:
    """Whether a model's files lie on this machine: packaged, or in a directory of that name."""
    from torch_compat import hub

    return model in hub.PACKAGED or Path(model).is_dir()
