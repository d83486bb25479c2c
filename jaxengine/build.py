"""Wires an engine together, in the one place that knows every part: `build_engine(config)`.

`llm.py` and `async_engine.py` call it. Weights are read while the programs compile; the memory plan is made from what
both say, and printed before anything is allocated for it.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import jax
import jax.numpy as jnp
from jax import Array

from jaxengine.arguments import engine_config
from jaxengine.buckets import Buckets
from jaxengine.cache.groups import arrange
from jaxengine.cache.recurrent import RecurrentCacheSpec
from jaxengine.compile import Phases, keep_programs
from jaxengine.config import EngineConfig, parse_length
from jaxengine.core import EngineCore
from jaxengine.engine import Engine
from jaxengine.engine_tokenizer import engine_tokenizer
from jaxengine.grammar import Grammars
from jaxengine.memory import MemoryPlan, device_limit, plan_pages
from jaxengine.models import Model, abstract_weights
from jaxengine.pages import PagePool
from jaxengine.prefix_cache import PrefixCache
from jaxengine.programs import num_steps_rows
from jaxengine.request import InvalidRequest, SamplingParams
from jaxengine.runner import Runner
from jaxengine.scheduler import Scheduler
from jaxengine.sharding import make_mesh
from jaxengine.state import StateShape, abstract_state, device_bytes
from jaxengine.state_snapshots import StateSnapshots
from jaxengine.step import StepOptions
from jaxengine.tokenizer import Tokenizer
from pallas_kernels import backend
from pallas_kernels.cuda import build as cuda_build
from pallas_kernels.native import BuildError

if TYPE_CHECKING:
    from torch_compat.hf_config import GenerationDefaults
    from torch_compat.live import LiveTensors

logger = logging.getLogger(__name__)

DEFAULT_TOKENS = {"gpu": 8192, "cpu": 2048}  # of a step
SERVED_TOKENS = 2048  # of a step that callers wait for: one full of prompts holds up all tokens, and first ones most
DEFAULT_SEQS = {"gpu": 512, "cpu": 64}
SMALL_MODEL = {"gpu": 2 << 30, "cpu": 32 << 20}  # bytes of weights read in less time than the host takes for a step
SMALL_MODEL_STEPS = 4  # that are sent at once then, so that a newcomer waits for a few milliseconds at most
CACHE_DTYPES = {
    "bfloat16": jnp.dtype(jnp.bfloat16),
    "float16": jnp.dtype(jnp.float16),
    "fp8": jnp.dtype(jnp.float8_e4m3fn),
    "fp8_e4m3": jnp.dtype(jnp.float8_e4m3fn),
    "fp8_e5m2": jnp.dtype(jnp.float8_e5m2),
}
STATES_SHARE = 0.25  # of what the weights leave, for recurrent states where max_num_seqs is not given
MOST_SNAPSHOTS = 64  # of those states, kept for other prompts, where num_state_snapshots is not given
GUESSED_ACTIVATIONS = 8  # arrays of [tokens, mlp] that a step is first assumed to hold at once


@dataclasses.dataclass(frozen=True)
class Limits:
    """The config's numbers with the defaults filled in."""

    tokens: int  # of a step
    seqs: int
    snapshots: int  # recurrent states that are kept
    num_steps: int  # decode steps of one dispatch
    model_len: int
    auto: bool  # model_len may shrink to what fits


def build_engine(config: EngineConfig, *, progress: bool = True, served: bool = False) -> Engine:
    """Everything that a process needs to make text. Arguments and what is raised are those of `build_core`."""
    return Engine(*build_core(config, progress=progress, served=served))


def engine_of_module(module: Any, tokenizer: Any, arguments: dict[str, Any]) -> Engine:
    """An engine with the weights of a live torch module. arguments: of EngineConfig, beside the model."""
    from torch_compat import live

    with tempfile.TemporaryDirectory() as directory:
        tensors = live.describe(module, tokenizer, Path(directory))
        arguments = {"skip_tokenizer_init": tokenizer is None and "tokenizer" not in arguments, **arguments}
        return Engine(*build_core(engine_config(model=directory, **arguments), tensors=tensors))


def fresh_weights(engine: Engine, pairs: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Array]]:
    """Arrays for the engine's weights out of those that a checkpoint would have. Raises ValueError before the first."""
    from torch_compat import live

    return live.updated(engine.runner.model, pairs)


def build_core(
    config: EngineConfig, *, progress: bool = True, served: bool = False, tensors: LiveTensors | None = None
) -> tuple[EngineCore, Tokenizer | None]:
    """Load, compile and allocate everything. served: callers stream each for himself, so that latency counts beside
    throughput. tensors: weights in memory, in place of the model's files.

    Raises ValueErrors that name the knob or the file that cannot be right.
    """
    from torch_compat import choose, hf_config, hub

    start, phases = time.perf_counter(), Phases()
    progress = progress and config.use_tqdm_on_load
    with phases.phase("devices"):
        _claim_memory(config.gpu_memory_utilization)
        keep = keep_programs(config.compilation_cache_dir)
        mesh = make_mesh(config.tensor_parallel_size)
    with phases.phase("config"):
        _check_kernel_backend(config.kernel_backend)
        path = hub.resolve(config.model, config.revision)
        generation = hf_config.load_generation_defaults(
            path, config.generation_config, config.override_generation_config, config.hf_overrides
        )
        wanted = choose.Wanted(
            config.model_impl, config.dtype, config.hf_overrides, config.trust_remote_code,
            page_size=config.block_size, cache_dtype=CACHE_DTYPES.get(config.kv_cache_dtype),
        )  # fmt: skip
        model, weights = choose.choose(path, wanted, mesh)
        files = path if tensors is None else tensors
        weights.check_weights(model, files, config.load_format)  # a bad checkpoint is refused before anything compiles
        tokenizer = engine_tokenizer(config)
        limits = _limits(config, model, served)
    with ThreadPoolExecutor(1) as reader:

        def load() -> dict:
            with phases.phase("load"):
                jnp.zeros(()).block_until_ready()  # the first allocation takes the whole memory, which takes a while
                return weights.load_weights(model, files, config.load_format, progress, config.seed)

        loading = reader.submit(load)
        with phases.phase("compile"):
            runner, plan = _compile(config, model, limits, tokenizer, keep, progress)
        arrays = loading.result()
    if progress:
        print(plan.table(), file=sys.stderr)
    with phases.phase("ready"):
        runner.start(arrays)
    pool = PagePool(plan.num_pages)
    cache = _prefix_cache(config, model, limits, plan, pool)
    scheduler = Scheduler(
        pool,
        cache,
        max_num_seqs=limits.seqs,
        max_num_batched_tokens=limits.tokens,
        max_model_len=plan.max_model_len,
        page_size=config.block_size,
        groups=plan.groups,
        policy=cast(Literal["fcfs", "priority"], config.scheduling_policy),
        long_prefill_token_threshold=config.long_prefill_token_threshold,
        token_sizes=[bucket.tokens for bucket in runner.buckets.mixed],
        num_steps=limits.num_steps,
        num_steps_rows=num_steps_rows(runner.buckets),
        snapshots=StateSnapshots(cache, limits.snapshots) if limits.snapshots else None,
    )
    phases.seconds["total"] = time.perf_counter() - start
    core = EngineCore(
        config,
        model.config,
        runner,
        scheduler,
        plan,
        Grammars(tokenizer, model.config.vocab_size, generation.eos_token_ids),
        eos_token_ids=frozenset(generation.eos_token_ids),
        sampling_defaults=_sampling_defaults(generation),
        startup=phases.seconds,
    )
    return core, tokenizer


def _prefix_cache(config: EngineConfig, model: Model, limits: Limits, plan: MemoryPlan, pool: PagePool) -> PrefixCache:
    # Keys that were rotated for one length are wrong for another: only siblings of the same prompt may share them.
    caching = config.enable_prefix_caching and not model.config.depends_on_length
    recurrent = any(isinstance(spec, RecurrentCacheSpec) for spec in model.cache_specs())
    if recurrent and caching and not limits.snapshots:
        logger.info("prefix caching is off: no states of the model's recurrent layers are kept (num_state_snapshots).")
    return PrefixCache(
        pool,
        config.block_size,
        config.prefix_caching_hash_algo,
        groups=plan.groups,
        enabled=caching and (limits.snapshots > 0 or not recurrent),
        siblings=not recurrent,
    )


def _claim_memory(share: float) -> None:
    """Let jax's allocator take our share of a GPU. Where jax has started already its own limit holds."""
    os.environ.setdefault("XLA_CLIENT_MEM_FRACTION", str(share))


def _check_kernel_backend(setting: str) -> None:
    try:
        backend.parse(setting)
    except ValueError as error:
        raise InvalidRequest(
            "kernel_backend", str(error), "use auto, one backend, or op=backend for each op that shall differ"
        ) from error


def _limits(config: EngineConfig, model: Model, served: bool) -> Limits:
    platform = _platform(model)
    longest, asked = model.config.max_length, parse_length(config.max_model_len)
    if asked is not None and asked > longest:
        raise InvalidRequest(
            "max_model_len",
            f"got {asked}, and the model's positions end at {longest}",
            f"use at most {longest}, or change max_position_embeddings through hf_overrides",
        )
    default_tokens = min(DEFAULT_TOKENS[platform], SERVED_TOKENS) if served else DEFAULT_TOKENS[platform]
    affordable = _affordable_states(config, model)
    default_seqs = min(DEFAULT_SEQS[platform], affordable)
    seqs = config.max_num_seqs or min(default_seqs, config.max_num_batched_tokens or default_seqs)
    tokens = config.max_num_batched_tokens or max(default_tokens, seqs)
    if seqs > tokens:
        raise InvalidRequest(
            "max_num_batched_tokens", f"{tokens} gives some of max_num_seqs={seqs} no token", f"use at least {seqs}"
        )
    num_steps = config.num_scheduler_steps
    if num_steps is None:
        small = device_bytes(abstract_weights(model)) < SMALL_MODEL[platform]
        num_steps = SMALL_MODEL_STEPS if small else 1
    snapshots = 0
    if affordable < sys.maxsize and config.enable_prefix_caching and not model.config.depends_on_length:
        asked_snapshots = config.num_state_snapshots
        snapshots = min(MOST_SNAPSHOTS, affordable // 2) if asked_snapshots is None else asked_snapshots
    length = longest if asked in (None, -1) else asked
    return Limits(tokens, seqs, snapshots, num_steps, length, auto=asked == -1)


def _affordable_states(config: EngineConfig, model: Model) -> int:
    """Sequences whose recurrent states take a part of the memory that leaves most of it to pages and programs."""
    one, two = (device_bytes(abstract_state(model, StateShape(1, slots, 1)).kv) for slots in (1, 2))
    _, limit = device_limit(model.mesh.devices.flat[0], config.gpu_memory_utilization)
    room = (limit - device_bytes(abstract_weights(model))) * STATES_SHARE
    return max(1, int(room) // (two - one)) if two > one else sys.maxsize


def _platform(model: Model) -> str:
    return "cpu" if model.mesh.devices.flat[0].platform == "cpu" else "gpu"


def _compile(
    config: EngineConfig,
    model: Model,
    limits: Limits,
    tokenizer: Tokenizer | None,
    keep: Path | None,
    progress: bool,
) -> tuple[Runner, MemoryPlan]:
    """Compile for the pages that fit beside a guess of the programs' memory; again if they turn out to need more."""
    c = model.config
    programs = GUESSED_ACTIVATIONS * limits.tokens * max(c.mlp_size, c.hidden_size) * c.dtype.itemsize
    programs = programs // config.tensor_parallel_size + 4 * limits.seqs * c.vocab_size * 4
    while True:
        plan = _plan(config, model, limits, programs)
        runner = Runner(
            model,
            Buckets(limits.seqs, limits.tokens, few=_platform(model) == "cpu"),
            StateShape(plan.num_pages, limits.seqs, -(-plan.max_model_len // plan.page_size), limits.snapshots),
            page_size=config.block_size,
            options=StepOptions(
                c.vocab_size if config.max_logprobs == -1 else config.max_logprobs, config.logprobs_mode
            ),
            backend=config.kernel_backend,
            encode=None if tokenizer is None else functools.partial(tokenizer.encode, add_special_tokens=False),
            keep=keep,
            num_steps=limits.num_steps,
        )
        if config.enforce_eager:
            if runner.devices[0].platform == "gpu":
                cuda_build.available()  # asked before anything is traced: nobody could go back later
            return runner, plan
        try:
            guess, programs = programs, runner.compile(progress=progress)
        except BuildError as error:  # the CUDA kernels were taken for granted while programs were traced
            cuda_build.refuse(error)
            continue
        if _plan(config, model, limits, programs).num_pages >= plan.num_pages:
            return runner, dataclasses.replace(plan, programs=programs)
        logger.warning(
            "Programs take %s bytes, more than the %s assumed: compiling again for fewer pages.", programs, guess
        )


def _plan(config: EngineConfig, model: Model, limits: Limits, programs: int) -> MemoryPlan:
    device = model.mesh.devices.flat[0]
    present, limit = device_limit(device, config.gpu_memory_utilization)
    pages_per_row = -(-limits.model_len // config.block_size)
    whole, one_page_more, one_slot_more = (
        abstract_state(model, StateShape(num_pages, slots, pages_per_row, limits.snapshots))
        for num_pages, slots in ((1, limits.seqs), (2, limits.seqs), (1, limits.seqs + 1))
    )
    page_bytes = device_bytes(one_page_more) - device_bytes(whole)
    plan = MemoryPlan(
        device_bytes=present,
        limit=limit,
        weights=device_bytes(abstract_weights(model)),
        state=device_bytes(whole) - page_bytes,
        programs=programs,
        page_bytes=page_bytes,
        page_size=config.block_size,
        num_pages=0,
        max_model_len=limits.model_len,
        chunk=config.long_prefill_token_threshold or limits.tokens,
        groups=arrange(model.cache_specs()).groups,
        slot_bytes=device_bytes(one_slot_more.kv) - device_bytes(whole.kv),
        snapshots=limits.snapshots,
        narrow_page_bytes=_narrow_page_bytes(whole.kv, one_page_more.kv),
    )
    return plan_pages(
        plan,
        platform=device.platform,
        max_num_seqs=limits.seqs,
        override=config.num_gpu_blocks_override,
        kv_cache_memory_bytes=config.kv_cache_memory_bytes,
        auto=limits.auto,
    )


def _narrow_page_bytes(pools: object, one_page_more: object) -> int:
    """Bytes on a device of a page within one array of eight bits; 0 where there is none."""
    pairs = zip(jax.tree.leaves(pools), jax.tree.leaves(one_page_more), strict=True)
    grown = (device_bytes(larger) - device_bytes(pool) for pool, larger in pairs if pool.dtype.itemsize == 1)
    return max(grown, default=0)


def _sampling_defaults(generation: GenerationDefaults) -> dict[str, float | int]:
    """SamplingParams fields that the model's authors, or the config, recommend."""
    found = {
        name: getattr(generation, name) for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    }
    found["max_tokens"] = generation.max_new_tokens
    found = {name: value for name, value in found.items() if value is not None}
    SamplingParams(**found)  # raises InvalidRequest now rather than at the first request
    return found
