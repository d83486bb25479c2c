"""Layers that are alike are traced once; those that are not, or that share something, are not taken for alike."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from jaxengine.models import abstract_weights
from jaxengine.sharding import make_mesh
from tests.torch_compat import sweep
from tests.torch_compat.tiny_configs import tiny_config
from torch_compat.module import TorchModel
from torch_compat.skeleton import build_module


def deep(name: str, layers: int, **changes: Any) -> TorchModel:
    config = tiny_config(name)
    for key, value in {"num_hidden_layers": layers, **changes}.items():
        setattr(config, key, value)
    return TorchModel(build_module(config, jnp.dtype(jnp.float32)), make_mesh(1), page_size=sweep.PAGE)


def traced(model: TorchModel) -> Any:
    caches, groups = sweep.new_caches(model)
    tokens, positions, rows = sweep.batch(sweep.prompts(), sweep.STEPS[-1], groups)
    with jax.sharding.use_abstract_mesh(model.mesh.abstract_mesh):  # as the runner does
        return jax.jit(lambda *given: model.forward(*given)).trace(
            abstract_weights(model), caches, jnp.asarray(tokens), positions, rows
        )


def test_one_trace_for_all_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    model = deep("llama", 6)
    assert len(set(model.shared.kind.values())) == 1
    calls = []
    kind = type(model.shared.layers[0])
    original = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, *a, **k: calls.append(1) or original(self, *a, **k))
    traced(model)
    assert len(calls) == 1


def test_layers_with_windows_are_another_kind() -> None:
    model = deep("gemma2", 4, layer_types=["sliding_attention", "full_attention"] * 2)
    first, second, *others = [model.shared.kind[id(layer)] for layer in model.shared.layers]
    assert first != second
    assert others == [first, second]


def test_a_constant_makes_another_kind() -> None:
    config = tiny_config("llama")
    config.num_hidden_layers = 3
    module = build_module(config, jnp.dtype(jnp.float32))
    module.model.layers[1].self_attn.scaling = 0.5
    module.model.layers[2].input_layernorm.variance_epsilon = 0.1
    model = TorchModel(module, make_mesh(1))
    assert len(set(model.shared.kind.values())) == 3


def test_layers_that_hand_keys_on_are_traced_one_by_one() -> None:
    """Gemma 3n's later layers find keys of earlier ones in an object that they are all called with."""
    assert sweep.check("gemma3n_text").matches
    assert (
        TorchModel(build_module(tiny_config("gemma3n_text"), jnp.dtype(jnp.float32)), make_mesh(1)).shared.layers == []
    )
