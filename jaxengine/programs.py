"""Which programs an engine is made of, and what XLA tries out while it compiles each.

`runner.py` traces, compiles and calls them; their names are those of the files in `program_store.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from jaxengine.buckets import Bucket, Buckets
from jaxengine.compile import TUNING

CUBLAS_FROM = 64  # tokens of a step from which XLA's own Triton products, slow to tune, gain next to nothing
CUBLAS_TRIED = 2  # of cuBLAS' proposals for a product: the best of eight is rarely 5% faster than the best of two
TILES = Path(__file__).with_name("gemm_tiles.txtpb")  # of those Triton products, measured on a device of
TILES_FOR = "9.0"  # this compute capability
NUM_STEPS_ROWS = 8  # rows up to which several decode steps can be one program
UPDATE_PAGES: Final = "update-pages"  # beside the steps: page-table changes that are too many for one
ADMIT: Final = "admit"  # and a request that enters the sampler's state
COPY_STATES: Final = "copy-states"  # recurrent states, between slots and where they are kept


@dataclass(frozen=True)
class Program:
    """The identity of a compiled step, or of several decode steps in a row."""

    bucket: Bucket
    full: bool = False
    num_steps: int = 1

    def __str__(self) -> str:
        kind = "decode" if self.bucket.decode_only else "mixed"
        steps = f"-steps{self.num_steps}" if self.num_steps > 1 else ""
        return f"{kind}-{self.bucket.tokens}x{self.bucket.rows}" + ("-full" if self.full else "") + steps


Key = Program | Literal["update-pages", "admit", "copy-states"]


def all_programs(buckets: Buckets, num_steps: int = 1, snapshots: bool = False) -> list[Key]:
    """Everything that can run, in the order to trace it: steps of each bucket plain, of the coarser ones also full, and
    num_steps decode steps at once of few rows.

    Small plain steps first: XLA tunes their products longest, and their sisters then know how to multiply. Of the
    others those first that take XLA longest, so that little is left to compile when the last one is traced.
    """
    plain = [Program(bucket) for bucket in buckets.all]
    full = [Program(bucket, full=True) for bucket in buckets.coarse]
    rows = num_steps_rows(buckets) if num_steps > 1 else 0
    repeated = [Program(bucket, num_steps=num_steps) for bucket in buckets.decode if bucket.rows <= rows]
    others: list[Key] = [UPDATE_PAGES, ADMIT, COPY_STATES] if snapshots else [UPDATE_PAGES, ADMIT]
    return [*sorted(plain + full + repeated, key=_turn), *others]


def _turn(program: Program) -> tuple[bool, bool, bool, int]:
    tokens = program.bucket.tokens
    tuned = tokens < CUBLAS_FROM and not program.full and program.num_steps == 1
    return not tuned, not program.full, program.bucket.decode_only, tokens if tuned else -tokens


def num_steps_rows(buckets: Buckets) -> int:
    """Rows of the largest bucket for which there is a program of several steps: more of them keep a device busy."""
    return max((bucket.rows for bucket in buckets.decode if bucket.rows <= NUM_STEPS_ROWS), default=0)


def compiler_options(
    program: Key, platform: str, keep: Path | None, capability: str | None = None
) -> dict[str, bool | str]:
    """What XLA tries out: Triton products for small steps only, where cuBLAS alone takes up to a third more, with few
    tiles where those are known that win; and never two ways to emit each fusion, which made no step faster. Nor may it
    make one product of several that share their tokens: it would concatenate their weights anew in every step.

    keep: the directory of what is kept between starts. capability: a CUDA device's compute capability, "9.0".
    """
    if platform == "cpu":
        return {}
    options: dict[str, bool | str] = {
        "xla_gpu_experimental_enable_fusion_autotuner": False,
        "xla_gpu_autotune_level": "2",  # products are timed, and not compared with each other
        "xla_gpu_autotune_max_solutions": str(CUBLAS_TRIED),
        "xla_gpu_dot_merger_threshold_mb": "0",  # 27 µs a layer of Qwen3-8B's queries, keys and values on an H200
    }
    if keep:
        options["xla_gpu_per_fusion_autotune_cache_dir"] = str(keep / TUNING)
    if isinstance(program, Program) and program.bucket.tokens >= CUBLAS_FROM:
        options["xla_gpu_enable_triton_gemm"] = False
    elif capability == TILES_FOR:
        options["xla_gpu_gemm_autotuner_override_file"] = str(TILES)
    return options
