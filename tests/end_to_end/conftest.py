"""The tiny random model as a directory, and engines of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file
from tiny_checkpoint import SMALL_ENGINE, TINY, random_tensors

from jaxengine import LLM


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny")
    (directory / "config.json").write_text(json.dumps(TINY))
    save_file(random_tensors(), directory / "model.safetensors")
    return directory


@pytest.fixture(scope="module")
def make_llm(tiny_model: Path) -> Iterator[Callable[..., LLM]]:
    """LLM(tiny model) with changes; closed when the module is done."""
    made: list[LLM] = []

    def make(**changes: Any) -> LLM:
        made.append(LLM(str(tiny_model), **(SMALL_ENGINE | changes)))
        return made[-1]

    yield make
    for llm in made:
        llm.close()
