"""`jaxengine env`: versions, devices, and what is missing with the command that installs it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

PACKAGES = (
    "jaxengine", "jax", "jaxlib", "jax-cuda13-plugin", "jax-cuda12-plugin", "numpy", "ml-dtypes", "tokenizers",
    "huggingface-hub", "jinja2", "torch", "torchax", "transformers", "flax",
)  # fmt: skip


def env(as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False) -> None:
    """Show versions and devices, and say what is missing."""
    found = inspect_environment()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    console = Console(highlight=False)
    for title in ("system", "packages", "devices"):
        table = Table(title=title, title_justify="left", show_header=False, box=None, title_style="bold")
        for name, value in found[title].items():
            table.add_row(name, value if value is not None else "[dim]not installed[/dim]")
        console.print(table, "")
    for advice in found["advice"]:
        console.print(f"[yellow]•[/yellow] {advice['missing']}: [bold]{advice['install']}[/bold]", soft_wrap=True)
    if not found["advice"]:
        console.print("[green]Nothing is missing.[/green]")


def inspect_environment() -> dict[str, Any]:
    packages = {name: _version(name) for name in PACKAGES}
    devices = _devices()
    gpu = _nvidia_gpu()
    system = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": f"{os.cpu_count()} cores, {_memory_gib():.1f} GiB of memory",
        "nvidia driver": gpu,
        "nvcc": shutil.which("nvcc"),
    }
    return {
        "system": system,
        "packages": packages,
        "devices": devices,
        "advice": missing(packages, devices, has_gpu=gpu is not None),
    }


def missing(packages: dict[str, str | None], devices: dict[str, str], *, has_gpu: bool) -> list[dict[str, str]]:
    """What would make more work here, and how to get it."""
    advice = []
    plugin = packages["jax-cuda13-plugin"] or packages["jax-cuda12-plugin"]
    if has_gpu and not plugin:
        advice.append({"missing": "a GPU is here, but jax runs on the CPU", "install": 'pip install "jaxengine[cuda]"'})
    elif has_gpu and not any("cuda" in name for name in devices):
        advice.append(
            {"missing": "jax sees no GPU", "install": "unset JAX_PLATFORMS, or update the NVIDIA driver (nvidia-smi)"}
        )
    if not packages["torch"] or not packages["transformers"]:
        advice.append({"missing": "models without an implementation here", "install": 'pip install "jaxengine[torch]"'})
    return advice


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _devices() -> dict[str, str]:
    try:
        import jax

        described = {}
        for device in jax.devices():
            limit = (device.memory_stats() or {}).get("bytes_limit")
            memory = f", {limit / 2**30:.1f} GiB for jax" if limit else ""
            described[f"{device.platform}:{device.id}".replace("gpu", "cuda")] = f"{device.device_kind}{memory}"
        return described
    except Exception as error:  # jax raises many kinds; this command must always answer
        return {"jax": f"does not start: {error}"}


def _nvidia_gpu() -> str | None:
    """The driver's own words, or None without a GPU."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return "device files only" if Path("/dev/nvidia0").exists() else None
    query = [program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        result = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return "; ".join(result.stdout.strip().splitlines()) or None


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
