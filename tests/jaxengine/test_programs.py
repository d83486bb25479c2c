"""The programs of an engine: their names, their order, and what XLA may try for each."""

from pathlib import Path

from jaxengine.buckets import Bucket, Buckets
from jaxengine.programs import (
    ADMIT,
    CUBLAS_FROM,
    UPDATE_PAGES,
    Program,
    all_programs,
    compiler_options,
    num_steps_rows,
)

BUCKETS = Buckets(64, 1024)


def test_every_bucket_is_there_and_full_ones_come_after_all_plain_ones() -> None:
    steps = [key for key in all_programs(BUCKETS) if isinstance(key, Program)]
    plain = [program.bucket for program in steps if not program.full]
    full = [program.bucket for program in steps if program.full]
    assert steps == [Program(bucket, False) for bucket in plain] + [Program(bucket, True) for bucket in full]
    assert set(plain) == set(BUCKETS.all)
    assert set(full) == set(BUCKETS.coarse)
    assert [bucket.tokens for bucket in plain] == sorted(bucket.tokens for bucket in plain)


def test_several_steps_at_once_are_for_few_rows_that_decode() -> None:
    repeated = [key for key in all_programs(BUCKETS, 4) if isinstance(key, Program) and key.num_steps > 1]
    assert repeated == [Program(Bucket(rows, rows, True), num_steps=4) for rows in (1, 8)]
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
