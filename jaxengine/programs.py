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
NUM_STEPS_ROWS = 8  # rows up to which several decode steps can be one program
UPDATE_PAGES: Final = "update-pages"  # beside the steps: page-table changes that are too many for one
ADMIT: Final = "admit"  # and a request that enters the sampler's state


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


Key = Program | Literal["update-pages", "admit"]


def all_programs(buckets: Buckets, num_steps: int = 1) -> list[Key]:
    """Everything that can run, in the order to trace it: steps of each bucket plain, of the coarser ones also full, and
    num_steps decode steps at once of few rows.

    Small ones first: XLA tunes their products longest, while the others are still being traced. Full and repeated ones
    last: they multiply as their plain sisters do, and XLA then knows how to.
    """
    plain = [Program(bucket) for bucket in buckets.all]
    full = [Program(bucket, full=True) for bucket in buckets.coarse]
    rows = num_steps_rows(buckets) if num_steps > 1 else 0
    repeated = [Program(bucket, num_steps=num_steps) for bucket in buckets.decode if bucket.rows <= rows]
    steps = sorted(
        plain + full + repeated, key=lambda program: (program.full or program.num_steps > 1, program.bucket.tokens)
    )
    return [*steps, UPDATE_PAGES, ADMIT]


def num_steps_rows(buckets: Buckets) -> int:
    """Rows of the largest bucket for which there is a program of several steps: more of them keep a device busy."""
    return max((bucket.rows for bucket in buckets.decode if bucket.rows <= NUM_STEPS_ROWS), default=0)


def compiler_options(program: Key, platform: str, keep: Path | None) -> dict[str, bool | str]:
    """What XLA tries out: Triton products for small steps only, where cuBLAS alone takes up to a third more, and never
    two ways to emit each fusion, which made no step faster. keep: the directory of what is kept between starts.
    """
    if platform == "cpu":
        return {}
    options: dict[str, bool | str] = {"xla_gpu_experimental_enable_fusion_autotuner": False}
    if keep:
        options["xla_gpu_per_fusion_autotune_cache_dir"] = str(keep / TUNING)
    if isinstance(program, Program) and program.bucket.tokens >= CUBLAS_FROM:
        options |= {"xla_gpu_enable_triton_gemm": False, "xla_gpu_autotune_level": "2"}  # 2: cuBLAS is not checked
    return options
