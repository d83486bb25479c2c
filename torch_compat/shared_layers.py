"""Layers that are alike are traced once: a model of 36 layers costs the tracing of one, and of what is around them.

Each layer of a module's lists of layers runs as a jitted function of its weights, its caches and what it is called
with, so jax finds the trace of another layer again. Which layers are alike is not guessed: a probe compares their
traces, to the last constant. Called by `module.py`; where a model's layers cannot be had apart, it traces them all.
"""

from __future__ import annotations

import functools
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from torch_compat._torchax import jax_view, torch, torch_view
from torch_compat.attention import Place, Probe, Step, current, serving
from torch_compat.masks import Mask

Leaves = tuple[Any, ...]  # of a layer's arguments: None in the place of each tensor
PLAIN = (type(None), bool, int, float, str, torch.dtype, torch.device, torch.Size, Mask)  # what nobody can change


class CannotShare(Exception):
    """The layers of a model depend on more than what they are called with."""


class SharedLayers:
    """The layers of a module's lists, and which of them are alike."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.layers = _layers(module)
        self.kind: dict[int, str] = {}  # id of a layer → its trace
        self.length: dict[int, int] = {}  # → caches that it takes
        self.first: dict[Any, tuple[Any, _Made]] = {}  # what runs layers of one kind, called in one way
        self.inside: Any = None
        for layer in self.layers:
            layer.forward = functools.partial(self._call, layer)

    def give_up(self) -> None:
        """Layers run as they are from now on."""
        for layer in self.layers:
            del layer.forward
        self.layers = []

    def _call(self, layer: Any, *arguments: Any, **keywords: Any) -> Any:
        if layer is self.inside:
            return type(layer).forward(layer, *arguments, **keywords)
        leaves, tree = tree_flatten((arguments, keywords))
        arrays = [jax_view(leaf) for leaf in leaves if isinstance(leaf, torch.Tensor)]
        others = tuple(None if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves)
        where = tuple(isinstance(leaf, torch.Tensor) for leaf in leaves)
        weights = {name: jax_view(tensor) for name, tensor in (*layer.named_parameters(), *layer.named_buffers())}
        step = current()
        if isinstance(step, Probe):
            return self._probe(layer, step, weights, arrays, _Call(tree, where, others))
        call = _Call(tree, where, others)
        return self._run(layer, step, weights, arrays, call)

    def _probe(self, layer: Any, probe: Probe, weights: dict[str, Array], arrays: list[Array], call: _Call) -> Any:
        if not all(isinstance(other, PLAIN) for other in call.others):
            raise CannotShare("a layer is called with an object that it may change")
        begun, made = len(probe.notes), _Made()
        leaves_before = tree_flatten(call.unflatten(arrays))[1]

        def run(weights: dict[str, Array], arrays: list[Array]) -> list[Array]:
            return self._inside(layer, weights, call.unflatten(arrays), made)

        traced = jax.jit(run).trace(weights, arrays)
        if made.called_with != leaves_before:
            raise CannotShare("a layer changes what it is called with")
        constants = traced.jaxpr.consts
        if any(isinstance(constant, jax.core.Tracer) for constant in constants):
            raise CannotShare("a layer sees more than what it is called with")
        values = [np.asarray(constant).tobytes() for constant in constants]
        notes = probe.notes[begun:]
        trace = repr((type(layer), str(traced.jaxpr.jaxpr), values, notes))
        self.kind[id(layer)] = hashlib.sha256(trace.encode()).hexdigest()
        self.length[id(layer)] = len(notes)
        outs = [jnp.zeros(out.shape, out.dtype) for out in jax.tree.leaves(traced.out_info)]
        return made.unflatten(outs)

    def _run(self, layer: Any, step: Step, weights: dict[str, Array], arrays: list[Array], call: _Call) -> Any:
        places = step.places[step.layer : step.layer + self.length[id(layer)]]
        step.layer += len(places)
        inner = tuple((i, spec, group) for i, (_, spec, group) in enumerate(places))
        key = self.kind[id(layer)], inner, call
        if key not in self.first:
            self.first[key] = self._function(layer, step, inner, call)
        run, made = self.first[key]
        caches = [step.caches[place] for place, _, _ in places]
        outs, caches = run(weights, caches, arrays, step.positions, step.rows)
        for (place, _, _), cache in zip(places, caches, strict=True):
            step.caches[place] = cache
        return made.unflatten(outs)

    def _function(self, layer: Any, step: Step, places: tuple[Place, ...], call: _Call) -> tuple[Any, _Made]:
        made, mesh = _Made(), step.mesh

        @jax.jit
        def run(weights: Any, caches: Any, arrays: Any, positions: Array, rows: Any) -> Any:
            inner = Step(places, list(caches), positions, rows, mesh)
            with serving(inner):
                return self._inside(layer, weights, call.unflatten(arrays), made), inner.caches

        return run, made

    def _inside(self, layer: Any, weights: dict[str, Array], called: Any, made: _Made) -> list[Array]:
        arguments, keywords = called
        outer, self.inside = self.inside, layer
        try:
            tensors = {name: torch_view(array) for name, array in weights.items()}
            out = torch.func.functional_call(layer, tensors, arguments, keywords, tie_weights=False)
        finally:
            self.inside = outer
        made.called_with = tree_flatten(called)[1]
        return made.flatten(out)


class _Call:
    """How a layer is called: all but the tensors. Equal calls have equal traces."""

    def __init__(self, tree: TreeSpec, where: tuple[bool, ...], others: Leaves) -> None:
        self.tree, self.where, self.others = tree, where, others

    def unflatten(self, arrays: list[Array]) -> Any:
        tensors = iter(torch_view(list(arrays)))
        leaves = [
            next(tensors) if is_tensor else other for is_tensor, other in zip(self.where, self.others, strict=True)
        ]
        return tree_unflatten(leaves, self.tree)

    def __hash__(self) -> int:
        return hash((self.where, self.others))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Call) and (self.where, self.others, self.tree) == (
            other.where,
            other.others,
            other.tree,
        )


class _Made:
    """What a layer returns, but for the tensors: learned while it is traced."""

    called_with: Any = None

    def flatten(self, out: Any) -> list[Array]:
        leaves, self.tree = tree_flatten(out)
        self.where = [isinstance(leaf, torch.Tensor) for leaf in leaves]
        self.others = [None if is_tensor else leaf for leaf, is_tensor in zip(leaves, self.where, strict=True)]
        return [jax_view(leaf) for leaf, is_tensor in zip(leaves, self.where, strict=True) if is_tensor]

    def unflatten(self, arrays: list[Array]) -> Any:
        tensors = iter(arrays)
        leaves = [
            torch_view(next(tensors)) if is_tensor else other
            for is_tensor, other in zip(self.where, self.others, strict=True)
        ]
        return tree_unflatten(leaves, self.tree)


def _layers(module: torch.nn.Module) -> list[Any]:
    """The children of the outermost lists of more than one module."""
    found: list[Any] = []
    inside: set[int] = set()
    for child in module.modules():
        if isinstance(child, torch.nn.ModuleList) and len(child) > 1 and id(child) not in inside:
            found += list(child)
            inside.update(id(part) for part in child.modules())
    return found
