"""Every knob of the engine, documented where it is declared.

`LLM(...)`, the command line and docs/configuration.md are generated from these fields; the names are vLLM's argument
names.
`EngineConfig` is what the user asked for; `build.py` turns it into resolved numbers (context length, pages, buckets).
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from jaxengine.request import InvalidRequest

GROUPS = ("Model", "Memory", "Scheduling", "Prefix cache", "Sampling", "Parallelism", "Start-up")


def knob(default: Any, *, help: str, group: str, choices: tuple[Any, ...] | None = None) -> Any:
    """A dataclass field that carries its own documentation for the command line and the docs."""
    metadata = {"help": help, "group": group, "choices": choices}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class EngineConfig:
    """What the user asked for. Raises InvalidRequest (a ValueError) naming the field that cannot be right."""

    model: str = knob("demo", help="A local directory, a Hugging Face hub name, or `demo`.", group="Model")
    tokenizer: str | None = knob(
        None, help="Directory or hub name of the tokenizer; the model's by default.", group="Model"
    )
    skip_tokenizer_init: bool = knob(
        False, help="Work with token ids only: no tokenizer is loaded and no text is made.", group="Model"
    )
    model_impl: str = knob(
        "auto",
        help="`jax`: our own models alone. `torch`: transformers' module, traced into the same programs. `auto`: ours "
        "where there is one.",
        group="Model",
        choices=("auto", "jax", "torch"),
    )
    trust_remote_code: bool = knob(
        False, help="Run the Python files that a model brings (with `model_impl` torch or auto).", group="Model"
    )
    revision: str | None = knob(None, help="Branch, tag or commit of the model on the hub.", group="Model")
    tokenizer_revision: str | None = knob(None, help="The same for the tokenizer.", group="Model")
    dtype: str = knob(
        "auto",
        help="Type of weights and activations. `auto`: the checkpoint's on a GPU, in 16 bits; float32 on a CPU.",
        group="Model",
        choices=("auto", "bfloat16", "float16", "float32", "half", "float"),
    )
    load_format: str = knob(
        "auto",
        help="`dummy` makes random weights on the device. `pt`: torch's own files, for models served through torch.",
        group="Model",
        choices=("auto", "safetensors", "pt", "dummy"),
    )
    max_model_len: int | str | None = knob(
        None,
        help="Longest prompt plus output in tokens (16k, 1M are understood). Default: the model's own limit; "
        "`auto` or -1: the longest that fits in memory.",
        group="Model",
    )
    hf_overrides: dict[str, Any] = knob({}, help="Values that replace those of config.json (JSON).", group="Model")
    generation_config: str = knob(
        "auto",
        help="`auto`: the model's generation_config.json gives the default sampling; `vllm`: the neutral defaults.",
        group="Model",
    )
    override_generation_config: dict[str, Any] = knob(
        {}, help="Values that replace those of generation_config.json (JSON).", group="Model"
    )
    seed: int = knob(0, help="Seed of the requests that bring none, and of dummy weights.", group="Sampling")
    max_logprobs: int = knob(
        20, help="Most logprobs a request may ask for; -1: the whole vocabulary.", group="Sampling"
    )
    logprobs_mode: str = knob(
        "raw_logprobs",
        help="What logprobs are read from: before or after the sampler's changes, normalised or not.",
        group="Sampling",
        choices=("raw_logprobs", "processed_logprobs", "raw_logits", "processed_logits"),
    )

    block_size: int = knob(16, help="Tokens in a page of the KV pool.", group="Memory")
    kv_cache_dtype: str = knob(
        "auto",
        help="Type of keys and values in pages. `auto`: the model's. Eight bits (`fp8` is `fp8_e4m3`) hold twice the "
        "tokens of sixteen; keys and values are stored as they are, rounded and bounded.",
        group="Memory",
        choices=("auto", "bfloat16", "float16", "fp8", "fp8_e4m3", "fp8_e5m2"),
    )
    gpu_memory_utilization: float = knob(
        0.92, help="Share of the device's memory that the engine may fill (weights, programs and pool).", group="Memory"
    )
    kv_cache_memory_bytes: int | None = knob(
        None, help="Size of the KV pool per device, in place of gpu_memory_utilization's remainder.", group="Memory"
    )
    num_gpu_blocks_override: int | None = knob(None, help="Number of pages in the pool, whatever fits.", group="Memory")

    max_num_batched_tokens: int | None = knob(
        None,
        help="Token budget of one step. More: prompts take less time in all; less: tokens wait less for prompts. "
        "Default: on a GPU 8192 for `LLM` and 2048 for a server or `AsyncEngine.from_config`; 2048 on a CPU.",
        group="Scheduling",
    )
    max_num_seqs: int | None = knob(
        None,
        help="Most sequences that run at once. Default: 512 on a GPU, 64 on a CPU; fewer where the states of recurrent "
        "layers would take more than a quarter of the memory.",
        group="Scheduling",
    )
    scheduling_policy: str = knob(
        "fcfs",
        help="`priority`: the lowest priority value first, then arrival.",
        group="Scheduling",
        choices=("fcfs", "priority"),
    )
    long_prefill_token_threshold: int = knob(
        0, help="Most prompt tokens of one request in one step; 0: only the budget limits it.", group="Scheduling"
    )
    num_scheduler_steps: int | None = knob(
        None,
        help="Decode steps sent to the device at once while nobody waits and rows are few: a small model's step is "
        "shorter than what the host does for it. Default: 4 for models below 2 GB a GPU (32 MB on a CPU), else 1.",
        group="Scheduling",
    )
    async_scheduling: bool = knob(True, help="Plan step n+1 while the device runs step n.", group="Scheduling")

    enable_prefix_caching: bool = knob(
        True, help="Requests that begin with the same tokens share their full pages.", group="Prefix cache"
    )
    prefix_caching_hash_algo: str = knob(
        "sha256",
        help="Hash of a page: the _cbor ones give the same values in every process and language.",
        group="Prefix cache",
        choices=("sha256", "sha256_cbor", "xxhash", "xxhash_cbor"),
    )

    num_state_snapshots: int | None = knob(
        None,
        help="States of recurrent layers that are kept, so that prompts that begin alike can go on from them. Default: "
        "up to 64, as memory allows; 0: models with recurrent layers share nothing.",
        group="Prefix cache",
    )

    tensor_parallel_size: int = knob(1, help="Devices that share one copy of the model.", group="Parallelism")

    kernel_backend: str = knob(
        "auto",
        help="Implementation of the kernels: `auto` takes the fastest that there is. One name (`reference`, `pallas`, "
        "`cuda`, `cpu`) asks for it wherever an op has it; `top_k=pallas,paged_attention=cuda` for single ops.",
        group="Start-up",
    )
    compilation_cache_dir: str | None = knob(
        None,
        help="Where compiled programs are kept. Default: ~/.cache/jaxengine/xla; `off`: nowhere.",
        group="Start-up",
    )
    enforce_eager: bool = knob(
        False, help="Compile each shape when it first runs: a quicker start, a slower first minute.", group="Start-up"
    )
    use_tqdm_on_load: bool = knob(True, help="Progress bars while loading and compiling.", group="Start-up")

    def __post_init__(self) -> None:
        kinds = get_type_hints(type(self))
        for field in dataclasses.fields(self):
            choices, value = field.metadata["choices"], getattr(self, field.name)
            if isinstance(value, os.PathLike):
                value = os.fspath(value)
                object.__setattr__(self, field.name, value)
            if not _is_a(kinds[field.name], value):
                raise InvalidRequest(field.name, f"got {value!r}", f"use a value of type {field.type}")
            if choices and value not in choices:
                raise InvalidRequest(field.name, f"got {value!r}", f"use one of {', '.join(map(str, choices))}")
        positive = "block_size", "max_num_batched_tokens", "max_num_seqs", "num_scheduler_steps", "tensor_parallel_size"
        for name in positive:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidRequest(name, f"got {value!r}", "use a whole number of at least 1")
        if self.block_size & (self.block_size - 1):
            raise InvalidRequest("block_size", f"got {self.block_size}", "use a power of two; 16 is usual")
        if not 0 < self.gpu_memory_utilization <= 1:
            raise InvalidRequest(
                "gpu_memory_utilization", f"got {self.gpu_memory_utilization}", "use a share above 0 and at most 1"
            )
        for name in (
            "kv_cache_memory_bytes",
            "num_gpu_blocks_override",
            "long_prefill_token_threshold",
            "num_state_snapshots",
        ):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise InvalidRequest(name, f"got {value!r}", "use a whole number of at least 0")
        if self.max_logprobs < -1:
            raise InvalidRequest(
                "max_logprobs", f"got {self.max_logprobs}", "use 0 or more, or -1 for the whole vocabulary"
            )
        parse_length(self.max_model_len)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        return tuple(field.name for field in dataclasses.fields(cls))

    @classmethod
    def from_arguments(cls, **arguments: Any) -> EngineConfig:
        """Build from keyword arguments; an unknown name raises InvalidRequest with the nearest ones."""
        for name in arguments:
            if name not in cls.names():
                near = difflib.get_close_matches(name, cls.names(), n=3, cutoff=0.5)
                hint = f"did you mean {' or '.join(near)}?" if near else "see `jaxengine generate --help`"
                raise InvalidRequest(name, "the engine has no such argument", hint)
        return cls(**arguments)


def _is_a(kind: Any, value: object) -> bool:
    """Whether a value is of an annotated type. True is no number, and a whole number is a float too."""
    kinds = [get_origin(part) or part for part in (get_args(kind) if isinstance(kind, UnionType) else (kind,))]
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, tuple(kinds)) or (float in kinds and isinstance(value, int))


def parse_length(value: int | str | None) -> int | None:
    """`16k`, `1M`, `4096`, 4096 → tokens; `auto` and -1 → -1 (as long as fits); None → None (the model's limit).

    Lower-case suffixes count in thousands (k = 1,000), upper-case ones in powers of 1,024, as vLLM's do.
    """
    if value is None:
        return None
    if value in ("auto", -1, "-1"):
        return -1
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kKmMgG]?)", str(value))
    if not match or float(match[1]) == 0:
        raise InvalidRequest("max_model_len", f"got {value!r}", "give a number of tokens, 16k, 1M, or auto")
    unit = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}[match[2]]
    return int(float(match[1]) * unit)
