"""Our mixture of experts under transformers' experts interface. Calls pallas_kernels/grouped_matmul."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec as P
from transformers.activations import ACT2FN
from transformers.integrations.moe import ExpertsInterface, _default_apply_gate

from jaxengine.sharding import TP, tp_size
from pallas_kernels.grouped_matmul import grouped_mlp
from pallas_kernels.grouped_matmul.activation import NAMES
from torch_compat._torchax import jax_view, torch_view
from torch_compat.attention import current

NAME = "jaxengine"  # of our function in transformers' registry


def run_experts(module: Any, hidden_states: Any, top_k_index: Any, top_k_weights: Any, *_: Any, **__: Any) -> Any:
    """transformers' experts interface. hidden_states: [T, E], index and weights of a token's experts: [T, k] → [T, E].

    The module says what it has: gate and up in one weight or up alone, biases, a norm behind, and which way they lie.
    An expert number beyond the last one means none. With tensor parallelism each device has a part of every expert's
    inner features, and the parts are summed.
    """
    mesh = current().mesh
    weights = {name: jax_view(parameter) for name, parameter in module.named_parameters(recurse=False)}
    specs = {name: P(*_split(module, name, array.shape, tp_size(mesh))) for name, array in weights.items()}
    parts = any(TP in spec for spec in specs.values())

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(P(), P(), P(), specs), out_specs=P(), check_vma=False)
    def on_device(x: Array, index: Array, scores: Array, weights: dict[str, Array]) -> Array:
        out = _mixture(module, x, index, scores, weights, share=tp_size(mesh) if parts else 1)
        return jax.lax.psum(out, TP).astype(x.dtype) if parts else out.astype(x.dtype)

    return torch_view(on_device(*map(jax_view, (hidden_states, top_k_index, top_k_weights)), weights))


def shape(owner: Any, name: str, lies: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in which we keep a parameter. Gate and up that lie one behind the other are a dimension of their own,
    so that each device gets the same features of both."""
    if not (_ours(owner) and name.rpartition(".")[2].startswith("gate_up_proj") and _concatenated(owner)):
        return lies
    dim = 1 if len(lies) == 2 or not owner.is_transposed else 2  # of [X, outputs, inputs], or of a bias [X, outputs]
    return (*lies[:dim], 2, lies[dim] // 2, *lies[dim + 1 :])


def axes(owner: Any, name: str, kept: tuple[int, ...], tp: int) -> tuple[str | None, ...] | None:
    """Logical axis of each dimension of an expert's parameter; None: it is none of an expert of ours."""
    if not _ours(owner):
        return None
    return tuple("mlp" if axis else None for axis in _split(owner, name.rpartition(".")[2], kept, tp))


def _ours(owner: Any) -> bool:
    """Whether a module's forward is `run_experts`."""
    return hasattr(owner, "is_transposed") and hasattr(owner, "num_experts") and hasattr(owner, "has_gate")


def _concatenated(owner: Any) -> bool:
    return getattr(owner, "is_concatenated", True) and owner.has_gate


def _split(module: Any, name: str, kept: tuple[int, ...], tp: int) -> tuple[str | None, ...]:
    """Mesh axis of each dimension: inner features are split where they divide, gate and up of one together."""
    whole: tuple[str | None, ...] = (None,) * len(kept)
    inner = _inner_features(module)
    if tp == 1 or inner % tp or getattr(module, "has_post_expert_norm", False):
        return whole
    up, bias = name.startswith(("gate_up_proj", "up_proj")), name.endswith("bias")
    if not up and (bias or not name.startswith("down_proj")):
        return whole
    if bias:
        dim = len(kept) - 1
    else:
        dim = len(kept) - 1 if up == module.is_transposed else len(kept) - 2
    return tuple(TP if i == dim else None for i in range(len(kept)))


def _inner_features(module: Any) -> int:
    down = module.down_proj
    return int(down.shape[1] if module.is_transposed else down.shape[2])


def _mixture(
    module: Any,
    x: Array,  # [T, E]
    index: Array,  # [T, k]
    scores: Array,  # [T, k]
    weights: dict[str, Array],
    share: int,  # devices that have a part of each expert: each adds that part of the last bias
) -> Array:
    """Each token's weighted experts → [T, E]: by our kernel, where it knows what stands between the products."""
    if (activation := _activation(module)) is None:
        return _sorted_mixture(module, x, index, scores, weights, share)
    down_bias = weights.get("down_proj_bias")
    return grouped_mlp(
        x, index.astype(jnp.int32), scores.astype(jnp.float32), weights["gate_up_proj"], weights["down_proj"],
        gate_up_bias=weights.get("gate_up_proj_bias"), down_bias=None if down_bias is None else down_bias / share,
        activation=activation,
    )  # fmt: skip


def _activation(module: Any) -> str | None:
    """The name of act(gate) · up, if that is all there is, and weights lie as our kernel has them."""
    plain = type(module)._apply_gate is _default_apply_gate and _concatenated(module) and not module.is_transposed
    if not plain or getattr(module, "has_post_expert_norm", False):
        return None
    return next((name for name in NAMES if type(ACT2FN[name]) is type(module.act_fn)), None)


def _sorted_mixture(module: Any, x: Array, index: Array, scores: Array, weights: dict[str, Array], share: int) -> Array:
    """Any other experts → [T, E] float32. Tokens are sorted by expert, so that a projection is one ragged product."""
    k, experts = index.shape[-1], module.num_experts
    expert = index.reshape(-1).astype(jnp.int32)
    order = jnp.argsort(expert, stable=True)  # of [T · k] tokens and experts
    token, expert = order // k, expert[order]
    sizes = jnp.bincount(expert, length=experts).astype(jnp.int32)

    def project(name: str, x: Array, share: int = 1) -> Array:
        weight, bias = weights[name], weights.get(f"{name}_bias")
        if weight.ndim == 4:  # gate and up
            halves = 2 if module.is_transposed else 1
            weight = weight.reshape(*weight.shape[:halves], -1, *weight.shape[halves + 2 :])
            bias = None if bias is None else bias.reshape(experts, -1)
        if not module.is_transposed:
            weight = weight.swapaxes(1, 2)  # [X, inputs, outputs]
        out = jax.lax.ragged_dot(x, weight.astype(x.dtype), sizes)
        return out if bias is None else out + bias.at[expert].get(mode="clip") / share

    if module.has_gate:
        hidden = jax_view(module._apply_gate(torch_view(project("gate_up_proj", x[token]))))
    else:
        hidden = jax_view(module.act_fn(torch_view(project("up_proj", x[token]))))
    out = project("down_proj", hidden, share)
    if getattr(module, "has_post_expert_norm", False):
        out = jax_view(module.post_expert_norm(torch_view(out)))
    out = jnp.where((expert < experts)[:, None], out * scores.reshape(-1)[order][:, None].astype(out.dtype), 0)
    return jax.ops.segment_sum(out.astype(jnp.float32), token, len(x))


ExpertsInterface.register(NAME, run_experts)
