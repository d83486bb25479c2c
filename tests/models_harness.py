"""Runs a model of ours through pages, greedily, and a transformers model beside it. Used by the tests of models."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxengine.cache.full import PagedRows
from jaxengine.cache.groups import arrange
from jaxengine.models import Model, build_model
from jaxengine.sharding import make_mesh
from jaxengine.state import StateShape, create_state
from torch_compat.hf_config import load_model_config
from torch_compat.weights import load_weights

PAGE = 4


def save_transformers_model(directory: Path, config: Any, dtype: str = "float32", **save: Any) -> Any:
    """A random transformers model whose every parameter matters, written as a checkpoint. Returns the model."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    torch.manual_seed(0)
    config.architectures = None
    kind = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    model = kind.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(1 + 0.2 * torch.randn_like(parameter))
            else:
                parameter.copy_(
                    torch.randn_like(parameter) * (0.3 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5 * 1.5)
                )
        for name, tensor in model.state_dict().items():
            if name.endswith("e_score_correction_bias"):  # no parameter
                tensor.copy_(torch.randn_like(tensor) * 0.3)
    model = model.to(getattr(torch, dtype))
    model.save_pretrained(directory, **save)
    return model


def load(directory: Path, tp: int = 1, **config: Any) -> tuple[Model, dict[str, jax.Array]]:
    """The checkpoint as a model of ours on tp devices."""
    model = build_model(load_model_config(directory, **config), make_mesh(tp), page_size=PAGE)
    return model, load_weights(model, directory, progress=False)


def greedy(
    model: Model, weights: dict[str, jax.Array], prompts: Sequence[Sequence[int]], steps: int, chunk: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Greedy tokens [S, steps] and the logits they came from [S, steps, V]. Prompts go `chunk` tokens a step."""
    rows = len(prompts)
    pages_per_row = -(-(max(map(len, prompts)) + steps) // PAGE)
    groups = arrange(model.cache_specs()).groups.count
    num_pages = rows * pages_per_row * groups + 1
    table = np.random.default_rng(0).permutation(np.arange(1, num_pages)).astype(np.int32)
    table = table.reshape(groups, rows, pages_per_row)
    kv = create_state(model, StateShape(num_pages, rows, pages_per_row)).kv
    chunk = chunk or max(map(len, prompts))
    done, logits = [0] * rows, np.zeros((rows, model.config.vocab_size), np.float32)
    while any(done[s] < len(prompts[s]) for s in range(rows)):
        parts = [list(prompts[s][done[s] : done[s] + chunk]) for s in range(rows)]
        packed = paged_rows(parts, done, table, num_pages, padded=rows * chunk)
        out, kv = run(model, weights, kv, *packed)
        ends = np.cumsum([len(part) for part in parts]) - 1
        for s, part in enumerate(parts):
            if part:
                done[s] += len(part)
                logits[s] = np.asarray(out[ends[s]])
    tokens, seen = [], []
    for _ in range(steps):
        tokens.append(logits.argmax(-1))
        seen.append(logits)
        packed = paged_rows([[int(token)] for token in tokens[-1]], done, table, num_pages, padded=None)
        out, kv = run(model, weights, kv, *packed)
        logits = np.asarray(out)
        done = [n + 1 for n in done]
    return np.stack(tokens, 1), np.stack(seen, 1)


def transformers_greedy(
    model: Any, prompts: Sequence[Sequence[int]], steps: int, positions: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The same from a transformers model with its own cache. positions: it must be told them."""
    import torch
    from transformers import DynamicCache

    torch.set_num_threads(1)  # tiny products: more threads only wait for one another
    tokens, seen = [], []
    with torch.no_grad():
        for prompt in prompts:
            fresh = copy.deepcopy(model)  # dynamic RoPE remembers the longest prompt a model has seen
            cache, inputs = DynamicCache(config=model.config), torch.tensor([list(prompt)])
            row: list[np.ndarray] = []
            length = 0
            for _ in range(steps):
                told = {"position_ids": torch.arange(length, length + inputs.shape[1])[None]} if positions else {}
                logits = fresh(inputs, past_key_values=cache, use_cache=True, **told).logits[:, -1].float()
                length += inputs.shape[1]
                row.append(logits[0].numpy())
                inputs = logits.argmax(-1, keepdim=True)
            tokens.append([int(logits.argmax()) for logits in row])
            seen.append(np.stack(row))
    return np.array(tokens), np.stack(seen)


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def agree_up_to_ties(ours: tuple[np.ndarray, np.ndarray], theirs: tuple[np.ndarray, np.ndarray], top: int = 5) -> bool:
    """At each row's first differing token, either side's choice is among the other's best five."""
    for row in range(len(ours[0])):
        differing = np.nonzero(ours[0][row] != theirs[0][row])[0]
        if differing.size:
            i = differing[0]
            best = [np.argsort(-logits[row, i])[:top] for logits in (ours[1], theirs[1])]
            if ours[0][row, i] not in best[1] or theirs[0][row, i] not in best[0]:
                return False
    return True


def paged_rows(
    parts: Sequence[Sequence[int]], done: Sequence[int], table: np.ndarray, num_pages: int, padded: int | None
) -> tuple[np.ndarray, np.ndarray, PagedRows]:
    """Tokens, positions [T] and rows of a step: parts[s] after done[s] tokens. padded None: decode only.

    table: pages of each row, [S, P], or [groups, S, P] where layers are in several groups.
    """
    tables = table.reshape(-1, *table.shape[-2:])
    counts = [len(part) for part in parts]
    total = padded or sum(counts)
    tokens, positions = np.zeros(total, np.int32), np.zeros(total, np.int32)
    page, offset = np.full((len(tables), total), num_pages, np.int32), np.zeros(total, np.int32)
    start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    for s, part in enumerate(parts):
        where = slice(start[s], start[s + 1])
        at = np.arange(done[s], done[s] + len(part))
        tokens[where], positions[where] = part, at
        page[:, where], offset[where] = tables[:, s, at // PAGE], at % PAGE
    context = np.array([n + c if c else 0 for n, c in zip(done, counts, strict=True)], np.int32)
    decoding = len(parts) if padded is None else 0
    slot = np.where(context > 0, np.arange(len(parts)), len(parts)).astype(np.int32)
    rows = PagedRows(
        tables[0], start, context, np.int32(decoding), page[0], offset, slot,
        tuple(zip(tables[1:], page[1:], strict=True)), padded is None,
    )  # fmt: skip
    return tokens, positions, rows


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def run(
    model: Model, weights: dict[str, jax.Array], kv: tuple[jax.Array, ...], tokens: Any, positions: Any, rows: PagedRows
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """One step: logits of every token [T, V], and the pools."""
    hidden, kv = model.forward(weights, kv, jnp.asarray(tokens), positions, rows)
    return model.logits(weights, hidden), kv
