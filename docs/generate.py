"""Writes docs/configuration.md from the fields of EngineConfig and ServerConfig, docs/models.md from the registry of
models. `--check` fails when one is out of date."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxengine import config as engine
from jaxengine import native_models
from serving import config as server

DOCS = Path(__file__).parent
HEAD = """# Configuration

Generated from `jaxengine/config.py` and `serving/config.py` by `python docs/generate.py`.

## The engine

The names are the keyword arguments of `LLM(...)`; on the command line they are flags (`--max-model-len` or
`--max_model_len`).
"""
SERVER = """## The server

Further flags of `jaxengine serve`. Its `--config` file takes these names and the engine's.
"""
MODELS = """# Models

Generated from the tables in `torch_compat/families/` by `python docs/generate.py`; `jaxengine models` prints the same.

These architectures have a native decoder. Any other causal language model of Hugging Face transformers runs through
torch: [models_torch.md](models_torch.md).

Each is compared with transformers on small random models, saved as checkpoints, that turn on the switches which its
released checkpoints use: logits within 1e-4 of the largest in float32, and the same greedy tokens, through pages, with
prompts in chunks. A switch that is not served is refused by its name when the model is loaded, and so is a checkpoint
with a tensor that the model would ignore. "Text alone": the language model of one that also sees. The checkpoints are
examples of released ones with the architecture; they are not part of the tests.
"""


def configuration() -> str:
    engine_knobs = _tables(engine.GROUPS, dataclasses.fields(engine.EngineConfig))
    return "\n".join([HEAD, *engine_knobs, SERVER, *_tables(server.GROUPS, dataclasses.fields(server.ServerConfig))])


def models() -> str:
    rows = (
        f"| `{model.architecture}` | {', '.join(f'`{name}`' for name in model.examples)} | {model.note} |"
        for model in native_models()
    )
    return "\n".join([MODELS, "| architecture | checkpoints | tested, and to know |", "|---|---|---|", *rows, ""])


PAGES = {"configuration.md": configuration, "models.md": models}


def _tables(groups: Sequence[str], fields: Sequence[dataclasses.Field]) -> list[str]:
    lines = []
    for group in groups:
        lines += [f"### {group}\n", "| name | default | meaning |", "|---|---|---|"]
        for field in fields:
            if field.metadata["group"] == group:
                lines.append(f"| `{field.name}` | {_default(field)} | {_meaning(field)} |")
        lines.append("")
    return lines


def _default(field: dataclasses.Field) -> str:
    if field.default is dataclasses.MISSING:
        return "`{}`"
    return f"`{field.default}`"


def _meaning(field: dataclasses.Field) -> str:
    choices = field.metadata["choices"]
    return field.metadata["help"] + (f" One of {', '.join(f'`{c}`' for c in choices)}." if choices else "")


if __name__ == "__main__":
    for name, page in PAGES.items():
        if "--check" not in sys.argv:
            (DOCS / name).write_text(page())
        elif not (DOCS / name).exists() or (DOCS / name).read_text() != page():
            sys.exit(f"docs/{name} is out of date: run `python docs/generate.py`")
