"""Recurrent mixers of transformers (Mamba, gated delta nets, short convolutions) with their state in our slots.

A mixer asks a transformers cache for its layer's states and puts new ones back. `adopt` makes each such module of a
model take its states from the step's slots instead: as a batch of rows, one token at a time, which is the form in which
transformers continues any of them exactly. A step that decodes is one call; a prompt is a loop over its tokens, so
prompts of these models are slow here: the native models are there for speed.
"""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from transformers.cache_utils import Cache, LinearAttentionLayer

from jaxengine.cache.recurrent import RecurrentCacheSpec, StateArray
from jaxengine.models import UnsupportedModel
from torch_compat._torchax import jax_view, torch, torch_view
from torch_compat.attention import Probe, current

CACHE_ARGUMENTS = ("cache", "cache_params", "past_key_values", "past_key_value")
UPDATES = ("update_conv_state(", "update_recurrent_state(", "set_linear_cache(")
OWN_STATE = "RecurrentGemmaRecurrentBlock"  # keeps its states in itself
MOST_STATES = 4  # of each kind in a layer
KINDS = ("conv", "recurrent")

States = dict[str, Array]  # "conv0", "recurrent0", … → [rows, ...]


@dataclass(frozen=True)
class StateNote:
    """What a probe learns of a mixer: its states' names, shapes (of one row) and dtypes."""

    states: tuple[tuple[str, tuple[int, ...], jnp.dtype], ...]

    def spec(self) -> RecurrentCacheSpec:
        return RecurrentCacheSpec(
            tuple(StateArray(name, shape, (None,) * len(shape), dtype) for name, shape, dtype in self.states)
        )


def adopt(model: torch.nn.Module) -> None:
    """Make the model's mixers ours. Other modules stay as they are."""
    for module in model.modules():
        kind: Any = type(module)
        if _is_mixer(kind):
            module.forward = functools.partial(_forward, module)


@functools.cache
def _is_mixer(kind: type) -> bool:
    if kind.__name__ == OWN_STATE:
        return True
    if not _cache_argument(kind):
        return False
    try:
        source = inspect.getsource(kind)
    except (OSError, TypeError):
        return False
    return any(update in source for update in UPDATES)


@functools.cache
def _cache_argument(kind: type) -> str | None:
    names = inspect.signature(kind.forward).parameters  # type: ignore[attr-defined]
    return next((name for name in CACHE_ARGUMENTS if name in names), None)


def _forward(module: Any, hidden_states: Any, *_: Any, **keywords: Any) -> Any:
    """The mixer's forward for packed tokens [1, T, E]."""
    x, step = jax_view(hidden_states)[0], current()
    allowed = {"attention_mask", "conv_mask", "cache_position", "position_ids", "seq_idx", *CACHE_ARGUMENTS}
    if odd := [name for name, value in keywords.items() if isinstance(value, torch.Tensor) and name not in allowed]:
        raise UnsupportedModel(f"{type(module).__name__} mixes tokens with {', '.join(odd)}.")
    if isinstance(step, Probe):
        step.notes.append(_note(module, x[:1]))
        return _like(module, hidden_states)
    i, _spec, rows = step.next_layer()
    slots: States = step.caches[i]

    def before(array: Array) -> Array:
        fresh = rows.starts.reshape(-1, *(1,) * (array.ndim - 1))
        return jnp.where(fresh, 0, array[rows.slot])

    states = {name: before(array) for name, array in slots.items()}
    if rows.decode_only:
        out, states = _one_token(module, x, states, step.positions)
    else:
        out, states = _each_token(module, x, states, step.positions, rows.query_start)
    step.caches[i] = {name: array.at[rows.slot].set(states[name]) for name, array in slots.items()}
    return _like(module, torch_view(out[None]))


def _like(module: Any, out: Any) -> Any:
    """What the mixer's callers expect of it: MiniMax' and RecurrentGemma's return something more."""
    return (out, None) if hasattr(module, "query_decay") or type(module).__name__ == OWN_STATE else out


def _each_token(module: Any, x: Array, states: States, positions: Array, query_start: Array) -> tuple[Array, States]:
    """x: [T, E] → outputs of all tokens and the rows' last states: the first token of every row, then the second, …"""
    T, first, counts = len(x), query_start[:-1], jnp.diff(query_start)

    def body(j: Array, carry: tuple[Array, States]) -> tuple[Array, States]:
        out, states = carry
        live, token = j < counts, first + j
        y, after = _one_token(module, x.at[token].get(mode="clip"), states, positions.at[token].get(mode="clip"))

        def kept(new: Array, old: Array) -> Array:
            return jnp.where(live.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

        return out.at[jnp.where(live, token, T)].set(y, mode="drop"), jax.tree.map(kept, after, states)

    return lax.fori_loop(0, jnp.max(counts), body, (jnp.zeros_like(x), states))


def _one_token(module: Any, x: Array, states: States, positions: Array) -> tuple[Array, States]:
    """x: [S, E], each row's next token, and its position → outputs [S, E] and the states after it."""
    if type(module).__name__ == OWN_STATE:
        return _one_token_of_own(module, x, states, positions)
    layer = LinearAttentionLayer(number_of_states=1 + max(int(name[-1]) for name in states))
    for name, array in states.items():
        kind, number = name[:-1], int(name[-1])
        tensor = torch_view(array)
        layer.lazy_initialization(**{f"{kind}_states": tensor}, state_idx=number)
        getattr(layer, f"{kind}_states")[number] = tensor
        layer.has_previous_state[number] = True
    out = _call(module, x[:, None], layer)
    after = {name: jax_view(getattr(layer, f"{name[:-1]}_states")[int(name[-1])]) for name in states}
    return out[:, 0].astype(x.dtype), {name: after[name].astype(states[name].dtype) for name in states}


def _one_token_of_own(module: Any, x: Array, states: States, positions: Array) -> tuple[Array, States]:
    """RecurrentGemma's: a convolution's last inputs and a linear recurrence, which begins anew at position 0."""
    module.conv1d_state, module.rg_lru.recurrent_states = map(torch_view, (states["conv0"], states["recurrent0"]))
    given = torch_view(x[:, None]), torch_view(positions[:, None]), None
    out = jax_view(type(module).forward(module, *given, use_cache=True)[0])
    after = {"conv0": jax_view(module.conv1d_state), "recurrent0": jax_view(module.rg_lru.recurrent_states)}
    module.conv1d_state = module.rg_lru.recurrent_states = None
    return out[:, 0].astype(x.dtype), {name: after[name].astype(states[name].dtype) for name in states}


def _note(module: Any, x: Array) -> StateNote:
    """Run one token without a past, and see which states it leaves."""
    if type(module).__name__ == OWN_STATE:
        width = module.lru_width
        conv = "conv0", (width, module.conv1d_width - 1), x.dtype
        return StateNote((conv, ("recurrent0", (width,), jnp.dtype(jnp.float32))))
    layer = LinearAttentionLayer(number_of_states=MOST_STATES)
    _call(module, x[None], layer)
    found = []
    for kind in KINDS:
        for number, tensor in getattr(layer, f"{kind}_states").items():
            if tensor is not None:
                array = jax_view(tensor)
                found.append((f"{kind}{number}", array.shape[1:], array.dtype))
    return StateNote(tuple(found))


def _call(module: Any, x: Array, layer: LinearAttentionLayer) -> Array:
    """The mixer's own forward on rows x: [S, 1, E]. Masks and the like are None."""
    kind: Any = type(module)
    _, _, *parameters = inspect.signature(kind.forward).parameters.values()
    given: dict[str, Any] = {
        p.name: None for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
    }
    given[str(_cache_argument(kind))] = _OneLayer(module.layer_idx, layer)
    out = kind.forward(module, torch_view(x), **given)
    return jax_view(out[0] if isinstance(out, tuple) else out)


class _OneLayer(Cache):
    """A cache with the states of one layer, which MiniMax calls its linear cache."""

    def __init__(self, layer_idx: int, layer: LinearAttentionLayer) -> None:
        super().__init__(layers=[layer] * (layer_idx + 1))
        self.only = layer

    def get_linear_cache(self, layer_idx: int) -> Any:
        return self.only.recurrent_states[0] if self.only.has_previous_state[0] else None

    def set_linear_cache(self, layer_idx: int, state: Any) -> None:
        self.only.recurrent_states[0] = state
