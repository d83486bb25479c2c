"""Mixtures of experts, block by block, against transformers' own modules with random weights."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers

from jaxengine.layers.experts import Experts, Mixture
from jaxengine.layers.router import Router
from jaxengine.sharding import make_mesh, named_sharding
from pallas_kernels.grouped_matmul import ClampedSwiglu

torch = pytest.importorskip("torch")

E, F, X = 32, 24, 8  # hidden, inner features, experts
FLOAT32 = jnp.dtype(jnp.float32)
GROUPED = {"n_group": 4, "topk_group": 2, "routed_scaling_factor": 1.5, "n_shared_experts": 2}

# name: module in transformers.models, class of the block, its config, ours
CASES: dict[str, tuple[str, str, dict[str, Any], Mixture]] = {
    "mixtral": (
        "mixtral", "MixtralSparseMoeBlock", {"num_local_experts": X, "intermediate_size": F},
        Mixture(Router(X, 2, renormalise=True), F),
    ),
    "qwen2, shared expert with a gate": (
        "qwen2_moe", "Qwen2MoeSparseMoeBlock",
        {"num_experts": X, "num_experts_per_tok": 3, "moe_intermediate_size": F, "shared_expert_intermediate_size": 40},
        Mixture(Router(X, 3), F, shared_size=40, shared_gate=True),
    ),
    "qwen3": (
        "qwen3_moe", "Qwen3MoeSparseMoeBlock",
        {"num_experts": X, "num_experts_per_tok": 3, "moe_intermediate_size": F, "norm_topk_prob": True},
        Mixture(Router(X, 3, renormalise=True), F),
    ),
    "glm 4, one group": (
        "glm4_moe", "Glm4MoeMoE",
        {"n_routed_experts": X, "num_experts_per_tok": 3, "moe_intermediate_size": F, "norm_topk_prob": True} | GROUPED
        | {"n_group": 1, "topk_group": 1},
        Mixture(Router(X, 3, "sigmoid", renormalise=True, scale=1.5, correction=True, float32=True), F,
                shared_size=2 * F),
    ),
    "deepseek 3, groups": (
        "deepseek_v3", "DeepseekV3MoE",
        {"n_routed_experts": X, "num_experts_per_tok": 3, "moe_intermediate_size": F, "norm_topk_prob": True} | GROUPED,
        Mixture(Router(X, 3, "sigmoid", renormalise=True, scale=1.5, groups=4, top_groups=2, correction=True,
                       float32=True), F, shared_size=2 * F),
    ),
    "deepseek 3, weights as they are": (
        "deepseek_v3", "DeepseekV3MoE",
        {"n_routed_experts": X, "num_experts_per_tok": 2, "moe_intermediate_size": F, "norm_topk_prob": False}
        | GROUPED,
        Mixture(Router(X, 2, "sigmoid", scale=1.5, groups=4, top_groups=2, correction=True, float32=True), F,
                shared_size=2 * F),
    ),
    "deepseek 2, groups": (
        "deepseek_v2", "DeepseekV2Moe",
        {"n_routed_experts": X, "num_experts_per_tok": 3, "moe_intermediate_size": F,
         "topk_method": "group_limited_greedy"} | GROUPED,
        Mixture(Router(X, 3, scale=1.5, groups=4, top_groups=2, float32=True), F, shared_size=2 * F),
    ),
    "deepseek 2, greedy": (
        "deepseek_v2", "DeepseekV2Moe",
        {"n_routed_experts": X, "num_experts_per_tok": 3, "moe_intermediate_size": F, "topk_method": "greedy"}
        | GROUPED,
        Mixture(Router(X, 3, scale=1.5, float32=True), F, shared_size=2 * F),
    ),
    "gpt-oss": (
        "gpt_oss", "GptOssMLP",
        {"num_local_experts": X, "num_experts_per_tok": 4, "intermediate_size": F, "swiglu_limit": 0.7},
        Mixture(Router(X, 4, "top_softmax", bias=True), F, ClampedSwiglu(1.702, 0.7), bias=True),
    ),
    "llama 4": (
        "llama4", "Llama4TextMoe", {"num_local_experts": X, "num_experts_per_tok": 1, "intermediate_size": F},
        Mixture(Router(X, 1, "top_sigmoid"), F, weigh_inputs=True, shared_size=F),
    ),
    "phi, sparsemixer": (
        "phimoe", "PhimoeSparseMoeBlock",
        {"num_local_experts": X, "intermediate_size": F, "router_jitter_noise": 0.3},
        Mixture(Router(X, 2, "sparsemixer", near=0.3), F),
    ),
    "granite": (
        "granitemoe", "GraniteMoeMoE", {"num_local_experts": X, "num_experts_per_tok": 3, "intermediate_size": F},
        Mixture(Router(X, 3, "top_softmax"), F),
    ),
}  # fmt: skip
CONFIGS = {"llama4": "Llama4TextConfig", "granitemoe": "GraniteMoeConfig"}  # else the module's name


def their_block(module: str, block: str, switches: dict[str, Any]) -> Any:
    modeling = importlib.import_module(f"transformers.models.{module}.modeling_{module}")
    name = CONFIGS.get(module, module.title().replace("_", "") + "Config")
    config = getattr(transformers, name)(hidden_size=E, num_attention_heads=2, **switches)
    config._experts_implementation = "eager"
    torch.manual_seed(0)
    made = getattr(modeling, block)(config).eval()
    with torch.no_grad():
        for tensor in (*made.parameters(), *made.buffers()):
            tensor.copy_(torch.randn_like(tensor) * (0.3 if tensor.ndim == 1 else E**-0.5 * 2))
    return made


def our_weights(block: Any, mixture: Mixture) -> dict[str, np.ndarray]:
    """The block's tensors by our names, in our order."""
    given = {name: tensor.detach().numpy() for name, tensor in (*block.named_parameters(), *block.named_buffers())}

    def of(*endings: str) -> np.ndarray:
        return next(given[name] for ending in endings for name in given if name.endswith(ending))

    gate_up, down = of("experts.gate_up_proj"), of("experts.down_proj")
    if gate_up.shape[1] == E:  # [X, E, 2F]
        gate_up, down = gate_up.swapaxes(1, 2), down.swapaxes(1, 2)
    pairs = not isinstance(mixture.activation, str)  # gate and up feature by feature

    def split(array: np.ndarray) -> np.ndarray:
        rest = array.shape[2:]
        return array.reshape(X, F, 2, *rest).swapaxes(1, 2) if pairs else array.reshape(X, 2, F, *rest)

    made = {
        "router": of("gate.weight", "router.weight"), "experts_gate_up": split(gate_up), "experts_down": down,
    }  # fmt: skip
    if mixture.router.bias:
        made["router_bias"] = of("router.bias")
    if mixture.router.correction:
        made["router_correction"] = of("e_score_correction_bias")
    if mixture.bias:
        made |= {"experts_gate_up_bias": split(of("gate_up_proj_bias")), "experts_down_bias": of("down_proj_bias")}
    if mixture.shared_size:
        shared = [next(given[n] for n in given if "shared_expert" in n and part in n) for part in ("gate_pr", "up_pr")]
        made |= {
            "shared_gate_up": np.stack(shared),
            "shared_down": next(given[n] for n in given if "shared_expert" in n and "down" in n),
        }
    if mixture.shared_gate:
        made["shared_gate"] = of("shared_expert_gate.weight")
    return made


def placed(block: Experts, arrays: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    specs = block.weight_specs()
    assert {name: spec.shape for name, spec in specs.items()} == {name: array.shape for name, array in arrays.items()}
    return {name: jax.device_put(arrays[name], named_sharding(block.mesh, specs[name].axes)) for name in specs}


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_like_transformers(case: str, tp: int) -> None:
    module, name, switches, mixture = CASES[case]
    theirs = their_block(module, name, switches)
    ours = Experts(mixture, E, make_mesh(tp), FLOAT32)
    weights = placed(ours, our_weights(theirs, mixture))
    x = np.random.default_rng(0).standard_normal((11, E)).astype(np.float32)
    with torch.no_grad():
        want = theirs(torch.from_numpy(x)[None].clone())
    want = (want[0] if isinstance(want, tuple) else want).numpy().reshape(11, E)
    for tokens in (x, x[:1]):
        got = jax.jit(lambda weights, x: ours(weights, x, None, None))(weights, tokens)
        np.testing.assert_allclose(got, want[: len(tokens)], rtol=1e-5, atol=1e-5 * np.abs(want).max())


def test_norm_and_residual() -> None:
    mixture = Mixture(Router(X, 2), F)
    block = Experts(mixture, E, make_mesh(), FLOAT32)
    weights = placed(block, our_weights(their_block(*CASES["mixtral"][:3]), mixture))
    x = jax.random.normal(jax.random.key(0), (5, E))
    gains = 1 + 0.1 * jnp.arange(E, dtype=jnp.float32)
    normed = x * jax.lax.rsqrt(jnp.mean(x * x, axis=1, keepdims=True) + 1e-5) * gains
    got = block(weights, x, (gains, 1e-5), x)
    np.testing.assert_allclose(got, x + block(weights, normed, None, None), rtol=1e-5, atol=1e-5)


def test_layers_with_and_without_experts() -> None:
    router = Router(X, 2)
    assert Mixture(router, F).in_layer(7)
    assert [Mixture(router, F, layers=(False, True)).in_layer(i) for i in (0, 1)] == [False, True]


def test_one_all_reduce(tp_text: Callable[[Experts, dict[str, Any]], str]) -> None:
    module, name, switches, mixture = CASES["deepseek 3, groups"]
    block = Experts(mixture, E, make_mesh(2), FLOAT32)
    text = tp_text(block, placed(block, our_weights(their_block(module, name, switches), mixture)))
    assert text.count("all-reduce(") == 1
    assert "all-gather" not in text


@pytest.fixture
def tp_text() -> Callable[[Experts, dict[str, Any]], str]:
    def compiled(block: Experts, weights: dict[str, Any]) -> str:
        call = jax.jit(lambda weights, x: block(weights, x, None, None))
        return call.lower(weights, jnp.ones((4, E))).compile().as_text()

    return compiled
