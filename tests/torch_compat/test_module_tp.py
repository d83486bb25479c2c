"""A TorchModel on several devices: the same logits, and no more communication than a native model has."""

from __future__ import annotations

import collections
import re

import jax
import jax.numpy as jnp
import pytest

from jaxengine.models import abstract_weights
from jaxengine.sharding import make_mesh
from tests.torch_compat import sweep
from tests.torch_compat.tiny_configs import LAYERS, tiny_config
from torch_compat.module import TorchModel
from torch_compat.skeleton import build_module


@pytest.mark.parametrize(("name", "tp"), [("llama", 4), ("gpt_oss", 2), ("gpt2", 2), ("lfm2", 2)])
def test_logits_are_the_same_on_several_devices(name: str, tp: int) -> None:
    """llama: fewer kv heads than devices. gpt_oss: experts with biases, sinks. gpt2: no plan for its weights."""
    config = tiny_config(name)
    assert sweep.compare(sweep.reference_model(config), config, tp) < sweep.CLOSE


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_two_all_reduces_a_layer_and_one_for_the_embedding(name: str) -> None:
    model = TorchModel(build_module(tiny_config(name), jnp.dtype(jnp.float32)), make_mesh(2), page_size=sweep.PAGE)
    caches, groups = sweep.new_caches(model)
    tokens, positions, rows = sweep.batch(sweep.prompts(), sweep.STEPS[-1], groups)
    program = jax.jit(lambda *given: model.forward(*given)).lower(
        abstract_weights(model), caches, jnp.asarray(tokens), positions, rows
    )
    made = collections.Counter(
        re.findall(r"= \S+ (all-[a-z]+|collective-[a-z]+|reduce-scatter)\(", program.compile().as_text())
    )
    assert made == {"all-reduce": 2 * LAYERS + 1}


def test_weights_are_split_as_transformers_plans() -> None:
    model = TorchModel(build_module(tiny_config("mixtral"), jnp.dtype(jnp.float32)), make_mesh(2))
    axes = {name: spec.axes for name, spec in model.weight_specs().items()}
    assert axes["model.layers.0.self_attn.q_proj.weight"] == ("mlp", None)
    assert axes["model.layers.0.self_attn.o_proj.weight"] == (None, "mlp")
    assert axes["model.layers.0.mlp.experts.gate_up_proj"] == (None, None, "mlp", None)  # of gate and of up the same
    assert axes["model.layers.0.mlp.experts.down_proj"] == (None, None, "mlp")
    assert axes["model.norm.weight"] == (None,)
    assert axes["lm_head.weight"] == ("mlp", None)
