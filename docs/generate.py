"""Writes docs/configuration.md from the fields of EngineConfig. `--check` fails when the file is out of date."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from jaxengine.config import GROUPS, EngineConfig

PAGE = Path(__file__).parent / "configuration.md"
HEAD = """# Configuration

Every knob of the engine, generated from `jaxengine/config.py` by `python docs/generate.py`. The names are the keyword
arguments of `LLM(...)`; on the command line they are flags (`--max-model-len` or `--max_model_len`).
"""


def page() -> str:
    lines = [HEAD]
    for group in GROUPS:
        lines += [f"## {group}\n", "| name | default | meaning |", "|---|---|---|"]
        for field in dataclasses.fields(EngineConfig):
            if field.metadata["group"] == group:
                lines.append(f"| `{field.name}` | {_default(field)} | {_meaning(field)} |")
        lines.append("")
    return "\n".join(lines)


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
