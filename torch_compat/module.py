"""Any causal language model of Hugging Face transformers as a Model: its torch module, traced under torchax.

choose.py calls it with a module of skeleton.py, whose parameters are placeholders (of torch's "meta" device). It never
runs: forward calls it on jax's tracers, with our attention, experts and recurrent state in the places that transformers
has for them, so what comes out is an ordinary XLA program.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from transformers.pytorch_utils import Conv1D

from jaxengine.cache.full import PagedRows
from jaxengine.cache.spec import Cache, CacheSpec
from jaxengine.layers.rope import Rope
from jaxengine.models import ModelConfig, UnsupportedModel, WeightSpec
from jaxengine.sharding import replicated, tp_size
from torch_compat import attention, experts, older, positions, products, recurrent, rotation, tp_plan
from torch_compat._torchax import jax_view, torch, torch_view, tracing
from torch_compat.attention import Call, Probe, Step, places_of, serving
from torch_compat.shared_layers import SharedLayers
from torch_compat.torch_files import numpy_view

logger = logging.getLogger(__name__)

PROBE_TOKENS = 8
CONSTANT_BYTES = 1 << 20  # larger buffers are weights; smaller ones, such as frequencies, are part of the programs


class TorchModel:
    """Implements the Model protocol. Weights have the module's own names and shapes."""

    def __init__(self, module: Any, mesh: Mesh, page_size: int = 16, cache_dtype: jnp.dtype | None = None) -> None:
        self.module, self.mesh = module, mesh
        self.outline = copy.deepcopy(module)  # for those who read weights while the module's are exchanged for tracers
        self.entry = _Entry(module)
        self.aliases, self.parameters = _tied(module)
        self.buffers, self.constants = _buffers(module)
        self.shapes = {name: tuple(tensor.shape) for name, tensor in (self.parameters | self.buffers).items()}
        _share_plain_tensors(module)
        older.adopt(module)
        recurrent.adopt(module)
        positions.adopt(module, _max_length(module.config))
        products.adopt(module)
        rotation.adopt(module)
        dtype = _jax_dtype(next(p.dtype for p in self.parameters.values() if p.is_floating_point()))
        self.shared = SharedLayers(module)
        try:
            found = self._probe()
        except Exception as error:
            logger.debug("layers of %s are traced one by one: %s", type(module).__name__, error)
            self.shared.give_up()
            found = self._probe()
        self.trunk, self.output_type = found.trunk, found.output_type
        self.specs = tuple(
            attention.cache_spec(note, mesh, page_size, cache_dtype or dtype) if isinstance(note, Call) else note.spec()
            for note in found.notes
        )
        self.config = _config(module, found, dtype)
        self.page_size = page_size

    def __repr__(self) -> str:
        """Everything that programs depend on: the config, the sources and versions behind the module, the sizes."""
        versions = [version(name) for name in ("torch", "torchax", "transformers")]
        about = versions, _sources(self.module), self.module.config.to_json_string(), self.config, self.specs
        return f"TorchModel{about}"

    def weight_specs(self) -> dict[str, WeightSpec]:
        """Parameter or buffer → array. Tied parameters are one array, under the first of their names."""
        return self._specs

    @functools.cached_property
    def made(self) -> dict[str, np.ndarray]:
        """Weights that no checkpoint has, because the module computes them itself."""
        stored = self.outline.state_dict().keys()
        return {name: numpy_view(buffer) for name, buffer in self.buffers.items() if name not in stored}

    @functools.cached_property
    def _specs(self) -> dict[str, WeightSpec]:
        specs, plan, tp = {}, tp_plan.plan_of(self.module), tp_size(self.mesh)
        for name, tensor in (self.parameters | self.buffers).items():
            owner = self.module.get_submodule(name.rpartition(".")[0])
            split = experts.shape(owner, name, tuple(tensor.shape))
            axes = experts.axes(owner, name, split, tp)
            if axes is None:
                axes = tp_plan.axes(name, split, plan, tp, transposed=isinstance(owner, Conv1D))
            specs[name] = WeightSpec(split, _jax_dtype(tensor.dtype), axes, _scale(name, split))
        return specs

    def cache_specs(self) -> tuple[CacheSpec, ...]:
        return self.specs

    def forward(
        self,
        weights: dict[str, Array],
        kv: tuple[Cache, ...],
        tokens: Array,
        positions: Array,
        rows: PagedRows,
        last: Array | None = None,
    ) -> tuple[Array, tuple[Cache, ...]]:
        """See the protocol. hidden is what the module's head gets, after the final norm."""
        step = Step(places_of(self.specs), list(kv), positions, rows, self.mesh)
        outputs: list[Any] = []

        def recorded(*arguments: Any, **keywords: Any) -> Any:
            outputs.append(type(self.trunk).forward(self.trunk, *arguments, **keywords))
            return outputs[-1]

        with serving(step), _forward_of(self.trunk, recorded):
            logits = self._run(weights, tokens, positions)
        hidden = jax_view(outputs[0][0] if outputs else logits)[0]
        return hidden if last is None else hidden[last], tuple(step.caches)

    def logits(self, weights: dict[str, Array], hidden: Array) -> Array:
        """hidden: [S, E] → [S, V] float32 on every device."""
        if self.trunk is not None:
            made = self.output_type([torch_view(hidden[None])])
            nothing = jnp.zeros(hidden.shape[:1], jnp.int32)
            with _forward_of(self.trunk, lambda *_, **__: made):
                hidden = jax_view(self._run(weights, nothing, nothing))[0]
        return jax.lax.with_sharding_constraint(hidden.astype(jnp.float32), replicated(self.mesh))

    def _run(self, weights: Mapping[str, Array], tokens: Array, positions: Array) -> Any:
        """Logits [1, T, V] of the module for packed tokens [T], as a torch tensor."""
        arrays = self.constants | dict(weights)
        arrays |= {alias: arrays[name] for alias, name in self.aliases.items()}
        inputs: dict[str, Any] = {"input_ids": tokens[None], "position_ids": positions[None]}
        inputs = {name: torch_view(array) for name, array in inputs.items() if name in self.accepted}
        if "return_dict" in self.accepted:
            inputs["return_dict"] = True

        def call(module: torch.nn.Module) -> Any:
            return module(**inputs).logits

        tensors = {f"module.{name}": torch_view(array) for name, array in arrays.items()}
        with tracing():
            return torch.func.functional_call(self.entry, tensors, (call,), tie_weights=False)

    @functools.cached_property
    def accepted(self) -> frozenset[str]:
        """Arguments of the module's forward."""
        return frozenset(inspect.signature(self.module.forward).parameters)

    def _probe(self) -> _Found:
        """Trace the module once on a few tokens, with nothing allocated, and note what it asks for."""
        first = jnp.arange(PROBE_TOKENS, dtype=jnp.int32)
        probe, watch = Probe(self.mesh, first), _TrunkWatch(self.module)

        def trace(weights: dict[str, Array], tokens: Array) -> Array:
            with serving(probe), watch:
                return jax_view(self._run(weights, tokens, first))

        weights = {name: jax.ShapeDtypeStruct(spec.shape, spec.dtype) for name, spec in self.weight_specs().items()}
        name = type(self.module).__name__
        try:
            logits = jax.eval_shape(trace, weights, jax.ShapeDtypeStruct((PROBE_TOKENS,), jnp.int32))
        except UnsupportedModel as error:
            raise UnsupportedModel(f"{name}: {error}") from None
        except jax.errors.JAXTypeError as error:
            raise UnsupportedModel(f"{name}: what it runs depends on the values of tensors.") from error
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UnsupportedModel(f"{name}: it cannot be traced: {reason}") from error
        if not probe.notes:
            raise UnsupportedModel(f"{name}: it does not use transformers' attention interface.")
        chunks = [note.chunk for note in probe.notes if isinstance(note, Call) and note.chunk]
        if chunks:
            logger.warning("%s sees chunks of %d tokens: contexts end there.", name, min(chunks))
        return _Found(probe.notes, watch.trunk, watch.output_type, logits.shape[-1], min(chunks, default=None))


@dataclass(frozen=True)
class _Found:
    notes: list[Any]
    trunk: Any  # the child that makes hidden states of tokens; None: there is no such
    output_type: Callable[[list[Any]], Any]
    vocab_size: int
    chunk: int | None  # of a context whose layers see their own chunk of it alone


class _Entry(torch.nn.Module):
    """Runs a function of the module while its parameters are exchanged."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, call: Callable[[torch.nn.Module], Any]) -> Any:
        return call(self.module)


class _TrunkWatch:
    """Finds the first child that the module's forward calls for hidden states, and how those come out."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module, self.depth = module, 0
        self.trunk: Any = None
        self.output_type: Callable[[list[Any]], Any] = tuple

    def __enter__(self) -> None:
        hooks = torch.nn.modules.module
        self.handles = [
            hooks.register_module_forward_pre_hook(self._before),
            hooks.register_module_forward_hook(self._after),
        ]

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _before(self, module: torch.nn.Module, _: Any) -> None:
        self.depth += 1

    def _after(self, module: torch.nn.Module, _: Any, output: Any) -> None:
        self.depth -= 1
        if self.depth == 2 and self.trunk is None and not isinstance(output, torch.Tensor):  # the entry, the module
            self.trunk = module
            kind = type(output)
            self.output_type = tuple if kind is tuple else lambda values: kind(**{next(iter(output)): values[0]})


@contextlib.contextmanager
def _forward_of(module: torch.nn.Module | None, forward: Callable[..., Any]) -> Iterator[None]:
    """Calls of the module run this function inside the block."""
    if module is None:
        yield
        return
    module.forward = forward
    try:
        yield
    finally:
        del module.forward


def _tied(module: torch.nn.Module) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """(name of a parameter that is another one → that one's name, the others)."""
    first: dict[int, str] = {}
    aliases: dict[str, str] = {}
    parameters: dict[str, torch.Tensor] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if (known := first.setdefault(id(parameter), name)) == name:
            parameters[name] = parameter
        else:
            aliases[name] = known
    return aliases, parameters


def _buffers(module: torch.nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, Array]]:
    """(buffers that are weights, since a checkpoint has them or they are large; the others as constants)."""
    stored = module.state_dict().keys()
    weights, constants = {}, {}
    for name, buffer in module.named_buffers(remove_duplicate=False):
        if name in stored or buffer.nbytes > CONSTANT_BYTES:
            weights[name] = buffer
        else:
            constants[name] = jnp.asarray(numpy_view(buffer))
    return weights, constants


def _share_plain_tensors(module: torch.nn.Module) -> None:
    """Tensors that modules keep as plain attributes become jax's, as everything that they will meet."""
    for child in module.modules():
        for name, value in vars(child).items():
            if type(value) is torch.Tensor and not value.is_meta:
                setattr(child, name, torch_view(jnp.asarray(numpy_view(value))))


def _config(module: Any, found: _Found, dtype: jnp.dtype) -> ModelConfig:
    """Sizes as the module itself shows them; switches say nothing here, because the module knows them."""
    text = module.config.get_text_config(decoder=True)
    hidden = int(getattr(text, "hidden_size", None) or getattr(text, "d_model", None) or 1024)
    inner = getattr(text, "intermediate_size", None) or 4 * hidden
    calls = [note for note in found.notes if isinstance(note, Call)] or [Call(1, 1, hidden, None)]
    return ModelConfig(
        architecture=type(module).__name__,
        vocab_size=found.vocab_size,
        hidden_size=hidden,
        mlp_size=int(max(inner) if isinstance(inner, list | tuple) else inner),
        num_layers=len(found.notes),
        num_heads=calls[0].num_heads,
        num_kv_heads=calls[0].kv_heads,
        head_dim=calls[0].head_dim,
        rope=Rope(head_dim=calls[0].head_dim),
        max_position_embeddings=min(_max_length(module.config), found.chunk or 1 << 30),
        dtype=dtype,
    )


def _max_length(config: Any) -> int:
    """Longest context that the positions are meant for; a million where there is no end."""
    text = config.get_text_config(decoder=True)
    for name in ("max_position_embeddings", "max_target_positions", "n_positions", "max_seq_len", "n_ctx"):
        if getattr(text, name, None):
            return int(getattr(text, name))
    return 1 << 20


def _scale(name: str, shape: tuple[int, ...]) -> float | None:
    """Standard deviation of a dummy weight; None: ones, as norms have."""
    if len(shape) > 1:
        return shape[-1] ** -0.5
    return None if name.endswith("weight") else 0.02


def _sources(module: torch.nn.Module) -> str:
    """One digest of our own torch side and of the files that define the module and its parts."""
    files = {str(file) for file in Path(__file__).parent.glob("*.py")}
    files |= {inspect.getsourcefile(kind) or "" for kind in {type(part) for part in module.modules()}}
    digest = hashlib.sha256()
    for file in sorted(files - {""}):
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()


def _jax_dtype(dtype: torch.dtype) -> jnp.dtype:
    return jnp.dtype(str(dtype).removeprefix("torch."))
