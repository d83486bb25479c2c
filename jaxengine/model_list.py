"""Which models have a native decoder: for `jaxengine models` and docs/models.md. Reads torch_compat's registry."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NativeModel:
    """One architecture of Hugging Face transformers that this project's own decoder serves."""

    architecture: str  # as in config.json
    examples: tuple[str, ...]  # released checkpoints
    note: str  # what of it is tested against transformers, and what is not served


def native_models() -> tuple[NativeModel, ...]:
    """All of them, by name."""
    from torch_compat.families import FAMILIES

    names = sorted(FAMILIES, key=str.lower)
    return tuple(NativeModel(name, FAMILIES[name].examples, FAMILIES[name].note) for name in names)
