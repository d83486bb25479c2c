"""Writes docs/configuration.md from the fields of EngineConfig and ServerConfig. `--check` fails when the file is out
of date."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxengine import config as engine
from serving import config as server

PAGE = Path(__file__).parent / "configuration.md"
HEAD = """# Configuration

Generated from `jaxengine/config.py` and `serving/config.py` by `python docs/generate.py`.

## The engine

The names are the keyword arguments of `LLM(...)`; on the command line they are flags (`--max-model-len` or
`--max_model_len`).
"""
SERVER = """## The server

Further flags of `jaxengine serve`. Its `--config` file takes these names and the engine's.
"""


def page() -> str:
    engine_knobs = _tables(engine.GROUPS, dataclasses.fields(engine.EngineConfig))
    return "\n".join([HEAD, *engine_knobs, SERVER, *_tables(server.GROUPS, dataclasses.fields(server.ServerConfig))])


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
    if "--check" not in sys.argv:
        PAGE.write_text(page())
    elif PAGE.read_text() != page():
        sys.exit("docs/configuration.md is out of date: run `python docs/generate.py`")
