"""Shared libraries of our own sources: built once, registered once, found again by another process."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxengine.program_store import ProgramStore
from pallas_kernels import native

COMPILER = shutil.which("c++") or shutil.which("g++")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")

SOURCE = """
#include "xla/ffi/api/ffi.h"
namespace ffi = xla::ffi;
static ffi::Error triple(ffi::Buffer<ffi::F32> x, ffi::ResultBuffer<ffi::F32> y) {
  for (size_t i = 0; i < x.element_count(); ++i) y->typed_data()[i] = 3 * x.typed_data()[i];
  return ffi::Error::Success();
}
XLA_FFI_DEFINE_HANDLER_SYMBOL(triple_it, triple,
                              ffi::Ffi::Bind().Arg<ffi::Buffer<ffi::F32>>().Ret<ffi::Buffer<ffi::F32>>());
"""


def built(directory: Path, source: str = SOURCE) -> Path:
    file = directory / "triple.cc"
    file.write_text(source)
    command = [str(COMPILER), "-O0", "-std=c++17", "-shared", "-fPIC", "-I", jax.ffi.include_dir(), str(file)]
    return native.library("triple", command, [file], cache=directory / "cache")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("native"))


def program(library: Path) -> jax.stages.Compiled:
    target = native.target(library, "triple_it", "cpu")
    call = jax.ffi.ffi_call(target, jax.ShapeDtypeStruct((4,), jnp.float32))
    return jax.jit(lambda tree: {"y": call(tree["x"])}).lower({"x": jnp.zeros(4)}).compile()


@needs_compiler
def test_programs_call_it(library: Path) -> None:
    x = jnp.arange(4.0)
    np.testing.assert_array_equal(program(library)({"x": x})["y"], 3 * x)
    assert native.target(library, "triple_it", "cpu") == native.target(library, "triple_it", "cpu")


@needs_compiler
def test_it_is_built_once_and_again_when_its_source_changes(library: Path) -> None:
    directory, before = library.parent.parent, library.stat().st_mtime_ns
    assert built(directory) == library
    assert library.stat().st_mtime_ns == before
    other = built(directory, SOURCE + "// more\n")
    assert other != library
    assert built(directory) == library


@needs_compiler
def test_many_at_once_build_one(tmp_path: Path) -> None:
    file = tmp_path / "calls"
    command = ["sh", "-c", f'echo built >> {file}; for last; do :; done; echo > "$last"', "sh"]
    threads = [
        threading.Thread(target=native.library, args=("x", command, []), kwargs={"cache": tmp_path}) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert file.read_text() == "built\n"


@needs_compiler
def test_what_the_compiler_says_is_told(tmp_path: Path) -> None:
    with pytest.raises(native.BuildError, match=r"(?s)does not compile; .*no_such_function"):
        built(tmp_path, SOURCE.replace("return ffi", "no_such_function(); return ffi"))
    with pytest.raises(native.BuildError, match="does not run"):
        native.library("x", [str(tmp_path / "no-compiler")], [], cache=tmp_path)


@needs_compiler
def test_a_stored_program_brings_its_library_along(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "CACHE", library.parent)
    monkeypatch.setattr(native, "_registered", {})  # of other tests, in other places
    ProgramStore(tmp_path, "engine").save("triple", program(library))
    child = f"""
from pathlib import Path
import jax, numpy as np
from jaxengine.program_store import ProgramStore
from pallas_kernels import native
native.CACHE = Path({str(library.parent)!r})
program = ProgramStore(Path({str(tmp_path)!r}), "engine").load("triple", jax.devices()[:1])
assert program is not None
np.testing.assert_array_equal(program({{"x": np.arange(4, dtype=np.float32)}})["y"], [0, 3, 6, 9])
"""
    subprocess.run([sys.executable, "-c", child], check=True, timeout=120)
    [stored] = (ProgramStore(tmp_path, "engine").home).iterdir()
    handlers, _ = pickle.loads(stored.read_bytes())
    assert native.Handler(library.name, "triple_it", "cpu") in handlers
    monkeypatch.setattr(native, "CACHE", tmp_path / "emptied")
    assert ProgramStore(tmp_path, "engine").load("triple", jax.devices()[:1]) is None


@needs_compiler
def test_a_program_is_compiled_before_its_library_is_there(tmp_path: Path) -> None:
    source = SOURCE.replace("triple_it", "triple_later")
    path = tmp_path / "cache" / "later.so"  # of no importance: XLA knows the name alone
    name = native.target_later(path, "triple_later", "cpu")
    shape = jax.ShapeDtypeStruct((3,), jnp.float32)
    program = jax.jit(lambda x: jax.ffi.ffi_call(name, shape)(x)).lower(shape).compile()
    built(tmp_path, source).rename(path)
    native.bind(path, "triple_later")
    np.testing.assert_array_equal(program(np.arange(3, dtype=np.float32)), [0, 3, 6])
    assert native.target(path, "triple_later", "cpu") == name  # registered once
