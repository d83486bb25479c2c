"""Weights of modules from files: transformers' names and conversions, torch's own files, what is missing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxengine.models import UnsupportedModel, abstract_weights
from jaxengine.sharding import make_mesh
from tests import models_harness
from tests.torch_compat import sweep
from tests.torch_compat.tiny_configs import tiny_config
from torch_compat import torch_weights, weights
from torch_compat.checkpoint import CheckpointError
from torch_compat.module import TorchModel
from torch_compat.skeleton import load_module

FLOAT32 = jnp.dtype(jnp.float32)


def saved(name: str, directory: Path, **changes: Any) -> Any:
    config = tiny_config(name)
    for key, value in changes.items():
        setattr(config, key, value)
    reference = sweep.reference_model(config)
    reference.save_pretrained(directory)
    return reference


def model_in(directory: Path, tp: int = 1) -> TorchModel:
    return TorchModel(load_module(directory, FLOAT32), make_mesh(tp))


def same(found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return found.keys() == wanted.keys() and all(np.array_equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize(("name", "tp"), [("mixtral", 2), ("gpt2", 1), ("gemma2", 1)])
def test_a_checkpoint_is_read_under_its_own_names(name: str, tp: int, tmp_path: Path) -> None:
    """mixtral's experts lie apart in files, and together in the module. gemma2's head is its embedding."""
    reference = saved(name, tmp_path)
    model = model_in(tmp_path, tp)
    torch_weights.check_weights(model, tmp_path)
    read = torch_weights.load_weights(model, tmp_path, progress=False)
    assert same(read, sweep.weights_of(model, reference))
    assert all(read[name].sharding.spec == spec_of(model, name) for name in read)


def spec_of(model: TorchModel, name: str) -> Any:
    from jaxengine.sharding import partition_spec

    return partition_spec(model.weight_specs()[name].axes)


@pytest.mark.parametrize("shards", [1, 2])
def test_torch_files_are_read_where_there_is_nothing_else(shards: int, tmp_path: Path) -> None:
    reference = saved("llama", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    tensors = list(reference.to(torch.bfloat16).state_dict().items())
    for i in range(shards):
        torch.save(dict(tensors[i::shards]), tmp_path / f"pytorch_model-{i}.bin")
    model = model_in(tmp_path)
    assert same(torch_weights.load_weights(model, tmp_path, progress=False), sweep.weights_of(model, reference.float()))
    ours, _ = models_harness.load(tmp_path)
    [norm] = [array for name, array in weights.load_weights(ours, tmp_path).items() if name == "final_norm"]
    assert np.array_equal(norm, reference.model.norm.weight.detach())


def test_a_torch_file_cannot_run_code(tmp_path: Path) -> None:
    saved("llama", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Path("anything that is no tensor")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="weights alone"):
        torch_weights.check_weights(model_in(tmp_path), tmp_path)


def test_what_is_missing_or_of_another_shape_is_said_before_anything_is_read(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    saved("llama", tmp_path)
    whole = load_file(tmp_path / "model.safetensors")
    model = model_in(tmp_path)
    for change, message in (
        (lambda t: t.pop("model.norm.weight"), "no tensor of the checkpoint makes 'model.norm.weight'"),
        (lambda t: t.update({"model.norm.weight": torch.zeros(3)}), r"has shape \[3\].*\[64\]"),
    ):
        tensors = dict(whole)
        change(tensors)
        save_file(tensors, tmp_path / "model.safetensors")
        with pytest.raises(CheckpointError, match=message):
            torch_weights.check_weights(model, tmp_path)


def test_dummy_weights_have_the_modules_own_buffers(tmp_path: Path) -> None:
    saved("whisper", tmp_path)
    model = model_in(tmp_path)
    made = torch_weights.load_weights(model, tmp_path, "dummy")
    assert made.keys() == model.weight_specs().keys()


def test_code_of_a_model_runs_only_where_it_is_trusted(tmp_path: Path) -> None:
    saved("llama", tmp_path)
    (tmp_path / "config.json").write_text(
        '{"model_type": "own", "architectures": ["Own"], "auto_map": {"AutoConfig": "own.Config"}}'
    )
    (tmp_path / "own.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(UnsupportedModel, match="trust_remote_code"):
        load_module(tmp_path, FLOAT32)
    with pytest.raises(SystemExit, match="it ran"):
        load_module(tmp_path, FLOAT32, trust_remote_code=True)


@pytest.mark.parametrize("load_format", ["dummy", "auto"])
def test_weights_are_read_while_the_module_is_traced(load_format: str, tmp_path: Path) -> None:
    """Starting does both at once, and a module that is being traced holds tracers in place of its parameters."""
    reference, read = saved("mixtral", tmp_path), []
    model = model_in(tmp_path)

    def read_meanwhile(*_: Any) -> None:
        if not read:
            with ThreadPoolExecutor(1) as thread:
                args = model, tmp_path, load_format, False
                read.append(thread.submit(torch_weights.load_weights, *args).result())

    handle = model.module.model.register_forward_pre_hook(read_meanwhile)
    try:
        hidden = jax.ShapeDtypeStruct((2, model.config.hidden_size), FLOAT32)
        jax.eval_shape(model.logits, abstract_weights(model), hidden)
    finally:
        handle.remove()
    wanted = sweep.weights_of(model, reference)
    assert read[0].keys() == wanted.keys()
    assert load_format == "dummy" or same(read[0], wanted)
