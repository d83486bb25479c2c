"""Compiled programs on disk, found again without being traced.

jax's own compilation cache is asked with the traced program, and tracing takes a third of a second each. Here the
question is everything that a program is made from: our sources, the versions below us, the devices, the model and the
engine's sizes. `runner.py` makes the store; `compile.py` asks it before it traces.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import logging
import os
import pickle
import platform
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import jax
from jax.experimental import serialize_executable

from pallas_kernels import native

logger = logging.getLogger(__name__)

ROOMS = ("jaxengine", "pallas_kernels")  # packages whose sources decide what a program is
SOURCES = (".py", ".cu", ".cuh", ".cc", ".h", ".txtpb")
KEPT = 16  # engines whose programs stay; the least recently used go first


@dataclass(frozen=True)
class ProgramStore:
    """The programs of one engine, one file each, in `directory`/<digest of identity>.

    Files are pickles: the directory must be as trustworthy as the code itself, and is made for its owner alone.
    """

    directory: Path
    identity: str  # says all that the engine's programs depend on, see `identify`

    @functools.cached_property
    def home(self) -> Path:
        return self.directory / hashlib.sha256(self.identity.encode()).hexdigest()[:32]

    def load(self, name: str, devices: list[jax.Device]) -> jax.stages.Compiled | None:
        """The program ready to run on `devices`; None if it is not here or cannot be read."""
        path = self.home / name
        try:
            handlers, (content, inputs, outputs) = pickle.loads(path.read_bytes())
            native.restore(handlers)
            return serialize_executable.deserialize_and_load(
                content, inputs, outputs, backend=devices[0].client, execution_devices=devices
            )
        except FileNotFoundError:
            return None
        except Exception as error:  # whatever a damaged or foreign file brings: it is only a cache
            logger.warning("%s cannot be read (%s): compiling again", path, error)
            return None

    def save(self, name: str, program: jax.stages.Compiled) -> None:
        """Keep a program. A reader sees all of it or nothing; a full disk costs a warning."""
        try:
            content = pickle.dumps((native.registered(), serialize_executable.serialize(program)))
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.home, delete=False) as file:
                file.write(content)
            os.replace(file.name, self.home / name)
        except (OSError, ValueError, NotImplementedError, jax.errors.JaxRuntimeError) as error:
            logger.warning("%s is not kept: %s", name, error)

    def tidy(self) -> None:
        """Mark this engine's programs as used now, and drop those of the engines not used for longest."""
        try:
            os.utime(self.home)
            used = sorted((home for home in self.directory.iterdir() if home.is_dir()), key=lambda h: h.stat().st_mtime)
        except OSError:  # nothing was kept, or another engine is tidying
            return
        for home in used[:-KEPT]:
            shutil.rmtree(home, ignore_errors=True)


def identify(devices: Iterable[jax.Device], *parts: object) -> str:
    """The identity of an engine's programs: sources, versions, settings, devices, and `parts` by their repr, which must
    be the same in every process."""
    devices = list(devices)
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("jax", "jaxlib", "numpy")]
    settings = {name: value for name, value in jax.config.values.items() if "cache" not in name}
    hardware = [(device.id, device.device_kind) for device in devices]
    about = [
        _sources(), platform.python_version(), versions, settings, os.environ.get("XLA_FLAGS", ""),
        devices[0].client.platform_version, _processor(), hardware, parts,
    ]  # fmt: skip
    return "\n".join(map(repr, about))


@functools.cache
def _sources() -> str:
    """One digest of every source file that programs are made from."""
    digest = hashlib.sha256()
    here = Path(__file__).parent.parent
    for path in sorted(path for room in ROOMS for path in (here / room).rglob("*") if path.suffix in SOURCES):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(here)} {len(content)}\n".encode() + content)
    return digest.hexdigest()


@functools.cache
def _processor() -> str:
    """What programs for the CPU are compiled for: its model and features."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
