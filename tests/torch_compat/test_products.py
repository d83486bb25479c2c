"""Torch modules' linear layers, norms, residuals and rotations by our kernels: what is traced, and what it computes."""

from __future__ import annotations

import re
import weakref
from collections import Counter

import jax
import jax.numpy as jnp
import pytest
import torch
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.glm4.modeling_glm4 import apply_rotary_pos_emb as glm4_rotation
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as llama_rotation
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from jaxengine.models import abstract_weights
from jaxengine.sharding import make_mesh
from pallas_kernels.backend import use_backend
from pallas_kernels.cpu import build
from tests.torch_compat import sweep
from tests.torch_compat.tiny_configs import LAYERS, tiny_config
from torch_compat import rotation
from torch_compat.module import TorchModel
from torch_compat.origins import Normed, Origins, Product
from torch_compat.products import adopt, epsilon
from torch_compat.skeleton import build_module

needs_compiler = pytest.mark.skipif(not build.available(), reason="no C++ compiler")
NORMED, ADDED, ALONE = ("true", "false"), ("false", "true"), ("false", "false")  # a product: with norm, with residual


def compiled(name: str, tp: int = 1, kernel_backend: str = "auto") -> str:
    """A decode step of all layers, optimized."""
    module = build_module(tiny_config(name), jnp.dtype(jnp.float32))
    model = TorchModel(module, make_mesh(tp), page_size=sweep.PAGE)
    caches, groups = sweep.new_caches(model)
    tokens, positions, rows = sweep.batch(sweep.prompts(), sweep.STEPS[-1], groups)
    with use_backend(kernel_backend), jax.sharding.use_abstract_mesh(model.mesh.abstract_mesh):
        program = jax.jit(lambda *given: model.forward(*given)).lower(
            abstract_weights(model), caches, jnp.asarray(tokens), positions, rows
        )
    return str(program.compile().as_text())


def products(program: str) -> Counter[tuple[str, str]]:
    """Our products in it, each with whether it takes a norm and a residual along."""
    calls = re.findall(r'custom_call_target="[^"]*\.matmul".*', program)
    return Counter((_flag(call, "norm"), _flag(call, "residual")) for call in calls)


def _flag(call: str, name: str) -> str:
    found = re.search(rf"{name} = (true|false)", call)
    assert found, call
    return found[1]


@needs_compiler
@pytest.mark.parametrize("name", ["qwen3", "llama"])
def test_a_layer_is_seven_products_with_its_norms_and_residuals(name: str) -> None:
    """The queries', keys', values', gate's and up's take the norm before them, the other two the residual."""
    program = compiled(name)
    assert products(program) == {NORMED: 5 * LAYERS, ADDED: 2 * LAYERS}
    assert "dot(" not in program


@needs_compiler
def test_heads_are_normalised_and_rotated_while_pages_are_written() -> None:
    program = compiled("qwen3")
    assert program.count(" rsqrt(") == 1  # of the last norm
    assert len(re.findall(r'custom_call_target="[^"]*\.rope_write".*eps = 9.99999997E-7', program)) == LAYERS
    assert "aten::neg" not in program  # of halves that torch rotates
    assert "aten::neg" in compiled("stablelm")  # a part of each head, which our kernel does not know


@needs_compiler
def test_norms_of_another_kind_stay_what_they_are() -> None:
    """Gemma multiplies by 1 + w, and normalises what it adds."""
    assert products(compiled("gemma2")) == {ALONE: 7 * LAYERS}


@pytest.mark.parametrize(("tp", "kernel_backend"), [(2, "auto"), (1, "matmul=reference")])
def test_products_are_left_to_xla_where_they_have_to_be(tp: int, kernel_backend: str) -> None:
    assert not products(compiled("qwen3", tp, kernel_backend))


@pytest.mark.parametrize("name", ["qwen3", "qwen2", "phi3", "olmo2", "stablelm"])
def test_logits_are_those_of_transformers(name: str) -> None:
    """qwen3: norms of heads. qwen2: biases. phi3: one product of many. olmo2: norms of all heads, and behind blocks.
    stablelm: a part of each head turns."""
    result = sweep.check(name)
    assert result.matches, result


def test_norms_are_told_by_what_they_compute() -> None:
    assert epsilon(Qwen3RMSNorm(48, eps=1e-3)) == 1e-3
    assert epsilon(torch.nn.RMSNorm(48, eps=1e-6)) == 1e-6
    assert epsilon(Qwen3RMSNorm(48).to("meta")) == 1e-6  # parameters without values
    for other in (GemmaRMSNorm(48), torch.nn.LayerNorm(48, bias=False), torch.nn.Linear(4, 4), torch.nn.PReLU(4)):
        assert epsilon(other) is None


def test_rotations_are_told_by_what_they_compute() -> None:
    assert rotation.rotates_halves(glm4_rotation) is False
    assert rotation.rotates_halves(llama_rotation)


def test_norms_may_be_called_by_keyword() -> None:
    norms, x = torch.nn.Sequential(Qwen3RMSNorm(8)), torch.randn(2, 8)
    expected = norms[0](x)
    adopt(norms)
    assert torch.equal(norms[0](hidden_states=x), expected)


def test_what_is_noted_of_an_array_keeps_it() -> None:
    """Else the id under which it is noted would become another one's."""
    origins, x = Origins(whole=True), jnp.ones(2)
    array = x + 1
    alive = weakref.ref(array)
    origins.note(array, Normed(x, x, 0.0))
    assert origins.find(array, Normed)
    assert origins.find(array, Product) is None
    del array
    assert alive() is not None
