"""Prints what jaxengine depends on, as requirements: `python requirements.py EXTRA`, where EXTRA is of pyproject.toml,
or `cpu` for none. The Dockerfile installs it as a layer of its own."""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
extra = sys.argv[1]
print("\n".join([*project["dependencies"], *(project["optional-dependencies"][extra] if extra != "cpu" else [])]))
