"""The programs of an engine: their names, their order, and what XLA may try for each."""

import re
from pathlib import Path

from jaxengine.buckets import Bucket, Buckets
from jaxengine.programs import (
    ADMIT,
    CUBLAS_FROM,
    TILES,
    TILES_FOR,
    UPDATE_PAGES,
    Program,
    all_programs,
    compiler_options,
    num_steps_rows,
)

BUCKETS = Buckets(64, 1024)


def test_every_bucket_is_there_and_what_compiles_longest_is_traced_first_behind_what_is_tuned() -> None:
    names = [str(key) for key in all_programs(Buckets(128, 1024), 4)]
    assert names == [
        "decode-1x1", "decode-8x8", "decode-32x32",
        "mixed-1024x128-full", "mixed-64x64-full", "decode-128x128-full", "decode-32x32-full",
        "mixed-1024x128", "mixed-512x128", "mixed-256x128", "mixed-64x64",
        "decode-128x128", "decode-64x64", "decode-8x8-steps4", "decode-1x1-steps4",
        UPDATE_PAGES, ADMIT,
    ]  # fmt: skip


def test_several_steps_at_once_are_for_few_rows_that_decode() -> None:
    repeated = [key for key in all_programs(BUCKETS, 4) if isinstance(key, Program) and key.num_steps > 1]
    assert repeated == [Program(Bucket(rows, rows, True), num_steps=4) for rows in (8, 1)]
    assert num_steps_rows(BUCKETS) == 8
    assert num_steps_rows(Buckets(4, 64)) == 4


def test_names_tell_programs_apart() -> None:
    names = [str(key) for key in all_programs(BUCKETS, 4)]
    assert len(set(names)) == len(names)
    assert {"decode-1x1", "decode-8x8-steps4", "mixed-64x64-full", UPDATE_PAGES, ADMIT} <= set(names)


def test_only_small_steps_try_triton_products(tmp_path: Path) -> None:
    for key in all_programs(BUCKETS):
        assert compiler_options(key, "cpu", tmp_path) == {}
        options = compiler_options(key, "gpu", tmp_path)
        assert options["xla_gpu_per_fusion_autotune_cache_dir"] == str(tmp_path / "tuning")
        large = isinstance(key, Program) and key.bucket.tokens >= CUBLAS_FROM
        assert ("xla_gpu_enable_triton_gemm" in options) == large
        assert "xla_gpu_per_fusion_autotune_cache_dir" not in compiler_options(key, "gpu", None)
        assert "xla_gpu_gemm_autotuner_override_file" not in compiler_options(key, "gpu", None, "8.0")
        assert ("xla_gpu_gemm_autotuner_override_file" in compiler_options(key, "gpu", None, TILES_FOR)) != large


def test_tiles_are_a_text_that_xla_reads() -> None:
    fields = {"block_m", "block_n", "block_k", "num_stages", "num_warps", "num_ctas", "is_tma_allowed"}
    lines = [line for line in TILES.read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"config \{( \w+: \w+)+ \}", line) for line in lines)
    assert {field for line in lines for field in re.findall(r"(\w+):", line)} <= fields
    assert len(lines) == len(set(lines)) < 10
