"""The CUDA sources: found, compiled once, and compiled without spills for every op that has them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax import Array

from pallas_kernels import native
from pallas_kernels.cuda import build
from pallas_kernels.gumbel_argmax import cuda as gumbel_argmax
from pallas_kernels.paged_attention import cuda as attention
from pallas_kernels.paged_attention.decode import one_token_rows, tiles_of
from pallas_kernels.paged_attention.scoring import Scoring
from pallas_kernels.paged_attention.tuning import chunk_blocks
from pallas_kernels.rope_write import cuda as rope
from pallas_kernels.top_k import cuda as top_k
from tests.pallas_kernels.hopper_build import compile_without_spills

needs_nvcc = pytest.mark.skipif(not build.available(), reason="no nvcc")
ROOT = Path(__file__).parents[2]

# Notes every call, and makes an empty library in a moment.
COMPILER = """#!/bin/sh
if [ "$1" = --version ]; then echo 'release 13.0, V13.0.88'; exit; fi
echo "$@" >> {calls}
sleep 0.3
for last; do :; done
echo > "$last"
"""


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is known of this machine's compiler."""
    monkeypatch.setattr(build, "_refused", [])
    caches = build._look_for_compiler, build._try_probe
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A nvcc that does nothing; its calls, one a line."""
    calls = tmp_path / "calls"
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text(COMPILER.format(calls=calls))
    nvcc.chmod(0o755)
    monkeypatch.setenv("PATH", f"{nvcc.parent}:/usr/bin:/bin")
    caches = build._find_nvcc, build._planned, build.nvcc_version
    for cache in caches:
        cache.cache_clear()
    yield calls
    for cache in caches:
        cache.cache_clear()


@pytest.mark.usefixtures("forgotten")
def test_without_nvcc_the_error_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_find_nvcc", lambda: (None, (Path("/opt/cuda"),)))
    assert not build.available()
    with pytest.raises(native.BuildError, match=r"no nvcc: not on PATH, not in /opt/cuda/bin.*kernel_backend='pallas'"):
        build.library("rope_write", {}, arch="90a", cache=tmp_path)


@pytest.mark.usefixtures("forgotten")
def test_what_cannot_be_compiled_is_left_to_pallas_and_the_log_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho 'fatal error: crt/host_config.h: No such file' >&2; exit 1")
    nvcc.chmod(0o755)
    monkeypatch.setattr(build, "_find_nvcc", lambda: (nvcc, ()))
    monkeypatch.setattr(build, "nvcc_version", lambda _: "V0.0.0")
    with build.in_background():
        assert build.available()  # trusted: `finish` will tell
    assert not build.available()
    with build.in_background():
        assert not build.available()
    assert "left to Pallas" in caplog.text
    assert "crt/host_config.h" in caplog.text


@pytest.mark.usefixtures("forgotten")
def test_an_older_gpu_is_left_to_pallas(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(build, "_capability", lambda: "8.0")
    with build.in_background():
        assert not build.available()
    assert "this GPU has 8.0" in caplog.text


def test_a_library_is_known_by_its_constants_and_its_architecture(compiler: Path, tmp_path: Path) -> None:
    def library(arch: str = "90a", **constants: int) -> Path:
        return build.library("top_k_thresholds", constants, arch=arch, cache=tmp_path / "cache")

    first = library(ITEMS=1, THREADS=2)
    assert library(THREADS=2, ITEMS=1) == first
    others = {library(ITEMS=2, THREADS=2), library("100a", ITEMS=1, THREADS=2)}
    assert len(others - {first}) == 2
    calls = compiler.read_text().splitlines()
    assert len(calls) == 3
    assert all(flag in calls[0] for flag in ("-DITEMS=1", "-DTHREADS=2", "arch=compute_90a,code=sm_90a"))


def test_a_header_is_part_of_what_a_library_is_known_by(
    compiler: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "SOURCES", tmp_path)
    (tmp_path / "x.cu").write_text("1")
    (tmp_path / "y.cuh").write_text("1")
    first = build.library("x", {}, arch="90a", cache=tmp_path / "cache")
    (tmp_path / "y.cuh").write_text("2")
    assert build.library("x", {}, arch="90a", cache=tmp_path / "cache") != first


def test_processes_that_start_together_compile_once(compiler: Path, tmp_path: Path) -> None:
    program = (
        "import sys, pathlib; from pallas_kernels.cuda import build;"
        "print(build.library('rope_write', {}, arch='90a', cache=pathlib.Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "cache")]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert len({process.communicate()[0] for process in processes}) == 1
    assert all(process.returncode == 0 for process in processes)
    assert len(compiler.read_text().splitlines()) == 1


def test_in_the_background_nobody_waits_until_the_end(
    compiler: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: list[str] = []
    monkeypatch.setattr(native, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(native, "target", lambda path, symbol, _: known.append(path.stem))
    monkeypatch.setattr(native, "target_later", lambda path, symbol, _: native.target_name(path, symbol))
    monkeypatch.setattr(native, "bind", lambda path, symbol: known.append(path.stem))
    with build.in_background():
        names = [build.target("rope_write", HEAD_DIM=-i) for i in (1, 2, 2, 3)]
    assert not known
    assert len(set(names)) == 3
    build.finish()
    assert {f"{stem}.rope_write" for stem in known} == set(names)
    assert len(compiler.read_text().splitlines()) == 3
    build.finish()
    assert len(known) == 3
    build.target("rope_write", HEAD_DIM=-4)  # outside all is as ever
    assert len(known) == 4


@pytest.mark.usefixtures("compiler")
def test_what_does_not_compile_in_the_background_is_told_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(native, "target_later", lambda path, symbol, _: native.target_name(path, symbol))
    monkeypatch.setattr(build, "FLAGS", ("--wrong",))
    (tmp_path / "bin" / "nvcc").write_text("#!/bin/sh\n[ $1 = --version ] || { echo 'error: wrong'; exit 1; }\n")
    with build.in_background():
        build.target("rope_write", HEAD_DIM=-5)
    with pytest.raises(native.BuildError, match="error: wrong"):
        build.finish()
    build._compiling.clear()


def array(shape: tuple[int, ...], dtype: jnp.dtype) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def decode(
    K: int, G: int, D: int, dtype: jnp.dtype, pages: jnp.dtype, tile_tokens: int = 1
) -> tuple[Callable[..., Array], tuple[jax.ShapeDtypeStruct, ...]]:
    S, T = 6, 6 * tile_tokens

    def call(q: Array, kv_pages: Array, table: Array, start: Array, context: Array) -> Array:
        assert attention.supports(q, kv_pages)
        tiles = one_token_rows(context, S) if tile_tokens == 1 else tiles_of(start, context, T, tile_tokens)
        return attention.attend(
            q, kv_pages, table, tiles, None, tile_tokens=tile_tokens, sinks=None, kv_scale=None,
            scoring=Scoring(1.0, None, None), blocks=chunk_blocks(D, kv_pages.dtype.itemsize),
        )  # fmt: skip

    ints = (array(shape, jnp.int32) for shape in ((S, 9), (S + 1,), (S,)))
    return call, (array((T, K * G, D), dtype), array((50, 2, K, 16, D), pages), *ints)


def rope_write(G: int, D: int, pages: jnp.dtype, normed: bool):  # type: ignore[no-untyped-def]
    T, K, dtype = 7, 2, jnp.bfloat16

    def call(qkv: Array, cos: Array, sin: Array, kv_pages: Array, page: Array, offset: Array, norm: Array):  # type: ignore[no-untyped-def]
        norms = (norm, norm) if normed else None
        assert rope.supports(qkv, kv_pages, norms, None)
        return rope.rope_write(qkv, cos, sin, kv_pages, page, offset, norms, 1e-6, None)

    angles, place = array((T, D // 2), jnp.float32), array((T,), jnp.int32)
    qkv, kv_pages = array((T, K, G + 2, D), dtype), array((50, 2, K, 16, D), pages)
    return call, (qkv, angles, angles, kv_pages, place, place, array((D,), dtype))


def thresholds():  # type: ignore[no-untyped-def]
    real = array((5,), jnp.float32)
    return top_k.thresholds, (array((5, 900), jnp.float32), real, array((5,), jnp.int32), real, real)


def gumbel():  # type: ignore[no-untyped-def]
    real, whole = array((5,), jnp.float32), array((5,), jnp.int32)
    return gumbel_argmax.gumbel_argmax, (array((5, 900), jnp.float32), real, real, whole, whole)


CALLS = (
    decode(8, 4, 128, jnp.bfloat16, jnp.bfloat16),
    decode(1, 16, 256, jnp.float16, jnp.float16),
    decode(8, 2, 128, jnp.bfloat16, jnp.float8_e4m3fn, tile_tokens=4),
    rope_write(4, 128, jnp.bfloat16, normed=False),
    rope_write(2, 80, jnp.float8_e5m2, normed=True),
    thresholds(),
    gumbel(),
)


@needs_nvcc
def test_every_source_compiles_for_hopper_without_spills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, dict]] = []

    def target(source: str, **constants: int | str) -> str:
        asked.append((source, constants))
        return source

    monkeypatch.setattr(build, "target", target)
    for function, arguments in CALLS:
        jax.eval_shape(function, *arguments)
    assert len(compile_without_spills(asked, tmp_path)) == len(CALLS)
