"""Which implementation runs where."""

import pytest

from pallas_kernels.backend import default_backend, resolve, use_backend


def test_a_cpu_runs_the_reference() -> None:
    assert default_backend() == "reference"


def test_use_backend_nests_and_restores() -> None:
    with use_backend("pallas"):
        assert default_backend() == "pallas"
        with use_backend("reference"):
            assert default_backend() == "reference"
        assert default_backend() == "pallas"
    assert default_backend() == "reference"


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown kernel backend 'triton'; known are 'reference', 'pallas', 'cuda'"):
        use_backend("triton").__enter__()  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown kernel backend"):
        resolve("triton", ("reference",), "op")  # type: ignore[arg-type]


def test_an_explicit_backend_must_exist_but_a_default_one_falls_back() -> None:
    with pytest.raises(ValueError, match="op has no 'cuda' implementation; it has 'reference', 'pallas'"):
        resolve("cuda", ("reference", "pallas"), "op")
    with use_backend("cuda"):
        assert resolve(None, ("reference", "pallas"), "op") == "reference"
    with use_backend("pallas"):
        assert resolve(None, ("reference", "pallas"), "op") == "pallas"
        assert resolve("reference", ("reference", "pallas"), "op") == "reference"
