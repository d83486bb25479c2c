"""A model's name → the directory with its files: a local path, a packaged demo model, or a download from the hub."""

from __future__ import annotations

import importlib.resources
import re
from pathlib import Path

from huggingface_hub import errors, snapshot_download

PACKAGED = {"demo": "model", "demo-draft": "draft"}  # name → directory inside jaxengine/demo

_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.tiktoken", "*.py"]  # code runs only where it is trusted
_ALLOW = [*_FILES, "*.jinja"]  # a star matches slashes: additional_chat_templates/tools.jinja too
_TORCH = ["*.bin", "*.bin.index.json", "*.pt", "*.pth"]  # where there is nothing else
_IGNORE = ["consolidated*", *(f"*/{pattern}" for pattern in _FILES)]  # the same weights in other formats


class HubError(ValueError):
    """A model that could not be found or fetched. One line that says what to do."""


def resolve(name: str, revision: str | None = None) -> Path:
    """The directory that holds the model's files, downloaded into the hub's cache if need be.

    `name`: "demo" or "demo-draft" (packaged), a local directory, or a hub name such as "Qwen/Qwen3-0.6B", of which
    `revision` may choose a branch, tag or commit. HF_HOME, HF_TOKEN and HF_HUB_OFFLINE have their usual meaning.
    """
    if name in PACKAGED:
        return _packaged(name)
    path = Path(name).expanduser()
    if path.exists() or name.startswith(("/", "./", "../", "~")) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        return _local(path)
    return _download(name, revision)


def _packaged(name: str) -> Path:
    path = Path(str(importlib.resources.files("jaxengine"))) / "demo" / PACKAGED[name]
    if not (path / "config.json").exists():
        raise HubError(f"the packaged model {name!r} is not in this installation ({path}); reinstall jaxengine.")
    return path


def _local(path: Path) -> Path:
    if not path.exists():
        raise HubError(f"{path}: no such directory, and not a hub name (owner/model) either.")
    if not (path / "config.json").exists():
        raise HubError(f"{path}: not a model directory: it has no config.json.")
    return path


def _download(name: str, revision: str | None) -> Path:
    at = f"{name} at revision {revision}" if revision else name
    try:
        found = Path(snapshot_download(name, revision=revision, allow_patterns=_ALLOW, ignore_patterns=_IGNORE))
        if not any(found.glob("*.safetensors")):
            beside = [f"*/{pattern}" for pattern in _TORCH]
            snapshot_download(name, revision=revision, allow_patterns=_TORCH, ignore_patterns=beside)
        return found
    except errors.GatedRepoError:
        raise HubError(f"{at}: access must be granted; accept its terms on the hub, then set HF_TOKEN.") from None
    except errors.RevisionNotFoundError:
        raise HubError(f"{name} has no revision {revision!r}; leave it out, or give a branch, tag or commit.") from None
    except errors.RepositoryNotFoundError:
        raise HubError(
            f"{at}: no such model on the hub, or a private one (set HF_TOKEN), and no such directory."
        ) from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        raise HubError(
            f"{at}: not in the local cache, and the hub cannot be reached (offline?); "
            "download it once while online, or give a local directory."
        ) from None
    except Exception as error:  # the HTTP client and its errors differ between versions of huggingface_hub
        reason = str(error).strip().split("\n")[0]
        raise HubError(f"{at}: download failed ({type(error).__name__}: {reason}); try again.") from error
