"""Owns the weights and the device state; turns a Plan into one dispatched XLA program.

`engine.py` calls `dispatch(plan)` and, a step later, `Pending.wait()`. All that a step can need is made by `compile()`.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array, lax

from jaxengine import sampling
from jaxengine.admission import AdmissionLayout
from jaxengine.batch import Layout, Packer, page_updates, update_page_table
from jaxengine.buckets import Buckets
from jaxengine.cache.groups import arrange
from jaxengine.cache.recurrent import RecurrentCacheSpec
from jaxengine.cache.spec import Cache, CacheSpec
from jaxengine.compile import Phases, compile_all, compile_anew
from jaxengine.masks import Masks
from jaxengine.models import Model, abstract_weights
from jaxengine.program_store import ProgramStore, identify
from jaxengine.programs import ADMIT, COPY_STATES, UPDATE_PAGES, Key, Program, all_programs, compiler_options
from jaxengine.request import SamplingParams
from jaxengine.scheduler import Plan
from jaxengine.sharding import replicated
from jaxengine.state import DeviceState, StateShape, abstract_state, create_state
from jaxengine.step import Output, StepOptions, step
from pallas_kernels import backend as kernel_backend
from pallas_kernels.cuda import build as cuda_build

logger = logging.getLogger(__name__)

UPDATE_CHUNK = 4096  # page-table entries that one call of the overflow program changes
COPY_CHUNK = 8  # recurrent states that one call copies


@dataclass(slots=True)
class Pending:
    """A dispatched plan, its results on their way to the host."""

    plan: Plan
    output: Output
    wants_logprobs: bool
    wants_prompt_logprobs: bool

    def fetch(self) -> None:
        """Start the copies to the host without waiting for them."""
        self.output.tokens.copy_to_host_async()
        if self.wants_logprobs and self.output.logprobs is not None:
            jax.tree.map(lambda array: array.copy_to_host_async(), self.output.logprobs)
        if self.wants_prompt_logprobs and self.output.prompt_logprobs is not None:
            jax.tree.map(lambda array: array.copy_to_host_async(), self.output.prompt_logprobs)

    def wait(self) -> Output:
        """Block until the results are here; only what was asked for is copied. Leaves are numpy arrays."""
        logprobs = self.output.logprobs if self.wants_logprobs else None
        prompt = self.output.prompt_logprobs if self.wants_prompt_logprobs else None
        return jax.tree.map(np.asarray, Output(self.output.tokens, logprobs, prompt))


class Runner:
    """One model on one mesh. Made from shapes alone: `compile` needs no weights, which can be read meanwhile."""

    def __init__(
        self,
        model: Model,
        buckets: Buckets,
        shape: StateShape,
        *,
        page_size: int,
        options: StepOptions,
        backend: str,  # see pallas_kernels.backend.parse
        encode: Callable[[str], list[int]] | None,  # text → token ids, for bad_words
        keep: Path | None,  # directory of compiled programs
        num_steps: int = 1,  # decode steps that can be one program
    ) -> None:
        self.model, self.buckets, self.shape = model, buckets, shape
        self.options, self.backend = options, backend
        self.encode, self.num_steps = encode, num_steps
        self.packer = Packer(shape.slots)
        self.replicated = replicated(model.mesh)
        groups = arrange(model.cache_specs()).groups.count
        self.layouts = {
            bucket: Layout(bucket, page_size, shape.slots, groups, shape.snapshots) for bucket in buckets.all
        }
        self.abstract = abstract_state(model, shape)
        self.shardings = jax.tree.map(lambda array: array.sharding, self.abstract)
        self.devices = list(model.mesh.devices.flat)
        self.keep = keep
        self.store = keep and ProgramStore(
            keep / "programs",
            identify(self.devices, model, shape, page_size, options, backend, kernel_backend.compilers()),
        )
        self.programs: dict[Program, Callable[..., tuple[DeviceState, Output]]] = {}
        self.phases: dict[Key, Phases] = defaultdict(Phases)  # what each took until it was ready
        self.update_pages: Any = jax.jit(_update_pages, donate_argnums=0, out_shardings=self.replicated)
        self.admit: Any = jax.jit(sampling.admit, donate_argnums=0, out_shardings=self.shardings.sampler)
        copy_states = functools.partial(_copy_states, arrange(model.cache_specs()).arrays)
        self.copy_states: Any = jax.jit(copy_states, donate_argnums=0, out_shardings=self.shardings.kv)
        self.masks = Masks(self.vocab_size, self.replicated)

    @property
    def vocab_size(self) -> int:
        return self.model.config.vocab_size

    # -- start-up -----------------------------------------------------------------------------------------------------

    def compile(self, *, progress: bool) -> int:
        """Compile every program ahead of time. Returns the bytes that the largest takes beside its arguments."""
        keys = all_programs(self.buckets, self.num_steps, snapshots=self.shape.snapshots > 0)
        compiled = compile_all(keys, self._load, self._lower, self._compile, self._save, progress=progress)
        cuda_build.finish()
        if self.store:
            self.store.tidy()
        self.update_pages, self.admit = compiled[UPDATE_PAGES], compiled[ADMIT]
        self.copy_states = compiled.get(COPY_STATES, self.copy_states)
        self.programs = {key: program for key, program in compiled.items() if isinstance(key, Program)}
        sizes = {key: _extra_bytes(program) for key, program in compiled.items()}
        largest = max(sizes, key=sizes.__getitem__)
        logger.info("%d programs; %s takes the most memory, %s bytes", len(sizes), largest, f"{sizes[largest]:,}")
        return sizes[largest] + self.masks.most_bytes([bucket.rows for bucket in self.buckets.coarse])

    def start(self, weights: dict[str, Array]) -> None:
        """Take the weights, allocate the state, and run every program once on nothing: first runs load code. The
        longest go first, so that the others are loaded while the device is busy.
        """
        self.weights, self.state = weights, create_state(self.model, self.shape)
        nothing, no_updates = Plan([], 0, 0, []), np.zeros((0, 3), np.int32)
        running = []
        for program in sorted(self.programs, key=lambda program: -program.bucket.tokens):
            packed = self.packer.pack(nothing, self.layouts[program.bucket], no_updates)
            with self.phases[program].phase("first run"):
                masks = (self.masks.nothing(program.bucket.rows),) if program.full else ()
                self.state, output = self.programs[program](self.weights, self.state, packed, *masks)
            running.append(Pending(nothing, output, program.full, program.full))
        self._send_updates(no_updates)
        if self.shape.snapshots:
            self._copy([(self.shape.slots + self.shape.snapshots,) * 2])
        for chunk in sampling.empty_admission(self.shape.slots, self.vocab_size):
            self._admit_chunk(chunk)
        for pending in running:
            pending.wait()
        jax.block_until_ready(self.state)

    def _load(self, program: Key) -> jax.stages.Compiled | None:
        with self.phases[program].phase("load"):
            return self.store.load(str(program), self.devices) if self.store else None

    def _lower(self, program: Key) -> jax.stages.Lowered:
        with (
            self.phases[program].phase("trace"),
            kernel_backend.use_backend(self.backend),
            cuda_build.in_background(),
            jax.sharding.use_abstract_mesh(self.model.mesh.abstract_mesh),  # kernels ask it where they will run
        ):
            if program == UPDATE_PAGES:
                return self.update_pages.lower(self.abstract.page_table, self._abstract_input(UPDATE_CHUNK, 3))
            if program == COPY_STATES:
                return self.copy_states.lower(self.abstract.kv, self._abstract_input(COPY_CHUNK, 2))
            if program == ADMIT:
                size = AdmissionLayout(self.vocab_size).size
                return self.admit.lower(self.abstract.sampler, self._abstract_input(size))
            inputs = [self._abstract_input(self.layouts[program.bucket].size)]
            if program.full:
                inputs.append(self._abstract_input(program.bucket.rows, self.masks.words))
            return self._jit(program).lower(abstract_weights(self.model), self.abstract, *inputs)

    def _abstract_input(self, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, np.int32, sharding=self.replicated)

    def _compile(self, program: Key, lowered: jax.stages.Lowered) -> tuple[jax.stages.Compiled, bool]:
        with self.phases[program].phase("compile"):
            device = self.devices[0]
            capability = getattr(device, "compute_capability", None)
            return compile_anew(lowered, compiler_options(program, device.platform, self.keep, capability))

    def _save(self, program: Key, compiled: jax.stages.Compiled) -> None:
        with self.phases[program].phase("save"):
            if self.store:
                self.store.save(str(program), compiled)

    # -- a step -------------------------------------------------------------------------------------------------------

    def dispatch(self, plan: Plan) -> Pending:
        """Send a plan to the device and return at once."""
        self._enter_slots(plan)
        full = bool(self.packer.full[[row.request.slot for row in plan.rows]].any())
        bucket = self.buckets.fit(plan.num_tokens, len(plan.rows), plan.num_decode == len(plan.rows), coarse=full)
        layout = self.layouts[bucket]
        packed = self.packer.pack(plan, layout, self._fit_updates(page_updates(plan), layout))
        masks = (self.masks.of(plan, bucket.rows),) if full else ()
        run = self._program(Program(bucket, full, plan.num_steps))
        kept = self.shape.slots  # where kept states begin
        self._copy([(kept + row.restore, row.request.slot) for row in plan.rows if row.restore is not None])
        self.state, output = run(self.weights, self.state, packed, *masks)
        self._copy([(row.request.slot, kept + row.save) for row in plan.rows if row.save is not None])
        params = [row.request.params for row in plan.rows] if full else []
        pending = Pending(
            plan,
            output,
            wants_logprobs=any(p.logprobs is not None for p in params),
            wants_prompt_logprobs=any(p.prompt_logprobs is not None for p in params),
        )
        pending.fetch()
        return pending

    def _enter_slots(self, plan: Plan) -> None:
        for row in plan.rows:
            if row.admitted:
                self.packer.admit(row.request)
                bad_words = self.bad_words(row.request.params)
                for chunk in sampling.admission_chunks(row.request, self.vocab_size, bad_words):
                    self._admit_chunk(chunk)

    def bad_words(self, params: SamplingParams) -> list[list[int]]:
        """The token sequences of params.bad_words."""
        if not params.bad_words or self.encode is None:
            return []
        return sampling.tokenize_bad_words(params.bad_words, self.encode)

    def _admit_chunk(self, chunk: np.ndarray) -> None:
        self.state = dataclasses.replace(self.state, sampler=self.admit(self.state.sampler, chunk))

    def _fit_updates(self, updates: np.ndarray, layout: Layout) -> np.ndarray:
        """Send what does not fit into the step's own vector ahead of it (long prompts found in the prefix cache)."""
        while len(updates) > layout.updates:
            self._send_updates(updates[:UPDATE_CHUNK])
            updates = updates[UPDATE_CHUNK:]
        return updates

    def _send_updates(self, updates: np.ndarray) -> None:
        padded = np.zeros((UPDATE_CHUNK, 3), np.int32)
        padded[:, 0] = self.shape.slots
        padded[: len(updates)] = updates
        self.state = dataclasses.replace(self.state, page_table=self.update_pages(self.state.page_table, padded))

    def _copy(self, pairs: list[tuple[int, int]]) -> None:
        """Copy recurrent states: from and to, in order."""
        scratch = self.shape.slots + self.shape.snapshots
        for start in range(0, len(pairs), COPY_CHUNK):
            padded = np.full((COPY_CHUNK, 2), scratch, np.int32)
            padded[: len(pairs) - start] = pairs[start : start + COPY_CHUNK]
            self.state = dataclasses.replace(self.state, kv=self.copy_states(self.state.kv, padded))

    # -- programs -----------------------------------------------------------------------------------------------------

    def _program(self, program: Program) -> Callable[..., tuple[DeviceState, Output]]:
        if program not in self.programs:  # enforce_eager: shapes are compiled as they come
            self.programs[program] = self._load(program) or self._make(program)
        return self.programs[program]

    def _make(self, program: Program) -> jax.stages.Compiled:
        compiled, new = self._compile(program, self._lower(program))
        cuda_build.finish()
        if new:
            self._save(program, compiled)
        return compiled

    def _jit(self, program: Program) -> jax.stages.Wrapped:
        layout = self.layouts[program.bucket]
        run = functools.partial(step, self.model, self.options, layout, program.full, program.num_steps)
        functools.update_wrapper(run, step)
        return jax.jit(run, donate_argnums=1, out_shardings=(self.shardings, self.replicated))

    def update_weights(self, fresh: Iterable[tuple[str, Array]]) -> None:
        """Take new arrays in the place of old ones, one after the other: memory holds one weight twice at most."""
        for name, array in fresh:
            old = self.weights[name]
            if array.shape != old.shape or array.dtype != old.dtype or array.sharding != old.sharding:
                raise ValueError(f"{name}: {array.dtype}{list(array.shape)} is not what was compiled for")
            self.weights[name] = array
            old.delete()

    def close(self) -> None:
        """Give the device's memory back: weights, state and programs."""
        for array in jax.tree.leaves((self.weights, self.state)):
            array.delete()
        self.masks.close()
        self.weights, self.programs = {}, {}


def _extra_bytes(program: jax.stages.Compiled) -> int:
    """What a program takes beside its arguments, and the results that are written over them."""
    sizes = program.memory_analysis()
    return sizes.temp_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes if sizes else 0


def _update_pages(page_table: Array, updates: Array) -> Array:  # updates: [UPDATE_CHUNK, 3] slot, index, page
    return update_page_table(page_table, updates[:, 0], updates[:, 1], updates[:, 2])


def _copy_states(specs: tuple[CacheSpec, ...], kv: tuple[Cache, ...], pairs: Array) -> tuple[Cache, ...]:
    """pairs: [COPY_CHUNK, 2] from, to; in order. Pages stay as they are."""

    def copied(array: Array) -> Array:
        return lax.fori_loop(0, COPY_CHUNK, lambda i, array: array.at[pairs[i, 1]].set(array[pairs[i, 0]]), array)

    return tuple(
        jax.tree.map(copied, cache) if isinstance(spec, RecurrentCacheSpec) else cache
        for spec, cache in zip(specs, kv, strict=True)
    )
