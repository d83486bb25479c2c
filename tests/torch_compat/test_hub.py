"""Names → directories, without a network: local paths, packaged models, and the hub's failures in one line each."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import errors
from huggingface_hub.utils import filter_repo_objects

from torch_compat import hub


def hub_fails(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(hub, "snapshot_download", fail)


def http_error(kind: type[errors.HfHubHTTPError]) -> errors.HfHubHTTPError:
    return kind("no", response=SimpleNamespace(status_code=404, headers={}, request=None))


def test_a_directory_is_itself(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert hub.resolve(str(tmp_path)) == tmp_path


def test_a_directory_without_config(tmp_path: Path) -> None:
    with pytest.raises(hub.HubError, match=r"not a model directory: it has no config\.json"):
        hub.resolve(str(tmp_path))


@pytest.mark.parametrize("name", ["/no/such/place", "./nowhere", "~/nowhere", "a/b/c", "not a name"])
def test_a_path_that_is_not_there(name: str) -> None:
    with pytest.raises(hub.HubError, match="no such directory"):
        hub.resolve(name)


def test_packaged_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "demo" / "draft").mkdir(parents=True)
    (tmp_path / "demo" / "draft" / "config.json").write_text("{}")
    monkeypatch.setattr(hub.importlib.resources, "files", lambda _: tmp_path)
    assert hub.resolve("demo-draft") == tmp_path / "demo" / "draft"
    with pytest.raises(hub.HubError, match="the packaged model 'demo' is not in this installation"):
        hub.resolve("demo")


def test_a_hub_name_is_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: dict[str, Any] = {}

    def download(name: str, **arguments: Any) -> str:
        asked.update(arguments, name=name)
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", download)
    (tmp_path / "model.safetensors").touch()
    assert hub.resolve("owner/model", "v1") == tmp_path
    assert (asked["name"], asked["revision"]) == ("owner/model", "v1")
    here = ["config.json", "model-00001-of-00002.safetensors", "merges.txt", "chat_template.jinja"]
    here += ["additional_chat_templates/tool_use.jinja"]
    elsewhere = ["pytorch_model.bin", "model.gguf", "consolidated.safetensors", "original/params.json", "README.md"]
    elsewhere += ["onnx/model.safetensors", "original/tokenizer.model"]
    patterns = {name: asked[name] for name in ("allow_patterns", "ignore_patterns")}
    assert list(filter_repo_objects([*here, *elsewhere], **patterns)) == here


def test_torch_files_are_downloaded_where_there_is_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(hub, "snapshot_download", lambda name, **options: asked.append(options) or str(tmp_path))
    assert hub.resolve("owner/model") == tmp_path
    patterns = {name: asked[-1][name] for name in ("allow_patterns", "ignore_patterns")}
    files = ["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json", "original/model.pth", "config.json"]
    assert list(filter_repo_objects(files, **patterns)) == files[:2]
    (tmp_path / "model.safetensors").touch()
    asked.clear()
    hub.resolve("owner/model")
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (http_error(errors.RepositoryNotFoundError), r"owner/model at revision v1: no such model on the hub"),
        (http_error(errors.GatedRepoError), "access must be granted"),
        (http_error(errors.RevisionNotFoundError), "owner/model has no revision 'v1'"),
        (errors.LocalEntryNotFoundError("x"), "not in the local cache, and the hub cannot be reached"),
        (errors.OfflineModeIsEnabled("x"), "download it once while online, or give a local directory"),
        (OSError("No space left on device\nmore"), r"download failed \(OSError: No space left on device\); try again"),
    ],
)
def test_failures_say_what_to_do(error: Exception, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub_fails(monkeypatch, error)
    with pytest.raises(hub.HubError, match=message) as raised:
        hub.resolve("owner/model", "v1")
    assert "\n" not in str(raised.value)


def test_offline_and_not_cached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The real hub client, told to stay offline."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(hub.HubError, match="owner/model: not in the local cache"):
        hub.resolve("owner/model")
