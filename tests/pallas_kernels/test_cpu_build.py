"""The CPU kernels' build: found, kept, replaced by the reference where it cannot be, and right on narrower vectors."""

import functools
import logging
import platform
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import native
from pallas_kernels.backend import resolve
from pallas_kernels.cpu import build
from pallas_kernels.matmul import has_kernel, matmul
from pallas_kernels.paged_attention import paged_attention
from tests.pallas_kernels.ragged import make_batch, specification


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    build.available.cache_clear()
    build._library.cache_clear()
    yield
    build.available.cache_clear()
    build._library.cache_clear()


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_the_reference_runs_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    x, weight = jnp.ones((3, 32)), jnp.ones((16, 32))
    with caplog.at_level(logging.WARNING):
        assert not has_kernel(x, weight, x.dtype)
        np.testing.assert_allclose(matmul(x, weight), 32.0)
        assert resolve(None, ("cpu", "reference"), "paged_attention") == "reference"
    assert len(caplog.records) == 1
    assert "there is no C++ compiler on PATH" in caplog.records[0].message


@pytest.mark.usefixtures("no_compiler")
def test_an_explicit_backend_does_not_fall_back() -> None:
    with pytest.raises(native.BuildError, match="no C\\+\\+ compiler"):
        matmul(jnp.ones((3, 32)), jnp.ones((16, 32)), backend="cpu")


def test_a_cpu_runs_its_kernels_by_itself() -> None:
    assert build.available()
    assert resolve(None, ("cpu", "pallas", "reference"), "matmul") == "cpu"
    assert resolve(None, ("pallas", "reference"), "matmul") == "reference"


def test_a_library_is_known_by_what_native_means(monkeypatch: pytest.MonkeyPatch) -> None:
    """Homes are shared by machines with other processors."""
    here = build._meaning(build.compiler(), build.FLAGS)
    assert here == build._meaning(build.compiler(), build.FLAGS)
    assert here != build._meaning(build.compiler(), (*build.FLAGS, "-D__A_FEATURE__=1"))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names an x86 processor")
def test_narrower_vectors_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen registers of eight floats: other tiles, the same results but for the order of sums."""
    flags = tuple("-march=haswell" if flag == "-march=native" else flag for flag in build.FLAGS)
    built = build.library(cache=tmp_path, flags=flags)
    monkeypatch.setattr(build, "_library", functools.cache(lambda: built))
    rng = np.random.default_rng(0)
    x, weight = (rng.standard_normal(shape, np.float32) for shape in ((7, 90), (37, 90)))
    np.testing.assert_allclose(matmul(x, weight, backend="cpu"), x @ weight.T, atol=2e-5)
    batch = make_batch([1, 1, 9, 40], [33, 1, 9, 70], head_dim=72, tokens=60)
    attend = jax.jit(functools.partial(paged_attention, scale=0.1, decode_only=False, window=30, backend="cpu"))
    want = specification(batch, scale=0.1, window=30)
    np.testing.assert_allclose(attend(*batch.arrays()), want, atol=2e-5)
