"""Which implementation runs where."""

from collections.abc import Mapping

import pytest

from pallas_kernels import backend
from pallas_kernels.backend import OPS, compilers, parse, resolve, use_backend

ALL = ("cuda", "pallas", "reference", "cpu")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "platform", lambda: "gpu")
    monkeypatch.setattr(backend.cuda_build, "available", lambda: True)


def test_a_cpu_runs_neither_gpu_kernels() -> None:
    assert resolve(None, ("cuda", "pallas", "reference"), "top_k") == "reference"


@pytest.mark.usefixtures("gpu")
def test_a_gpu_runs_the_first_that_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve(None, ("cuda", "pallas", "reference"), "top_k") == "cuda"
    assert resolve(None, ("pallas", "cuda", "reference"), "top_k") == "pallas"
    assert resolve(None, ("reference",), "top_k") == "reference"
    assert compilers() == ("cuda",)
    monkeypatch.setattr(backend.cuda_build, "available", lambda: False)
    assert resolve(None, ("cuda", "pallas", "reference"), "top_k") == "pallas"
    assert compilers() == ()


@pytest.mark.parametrize(
    ("setting", "asked"),
    [
        ("auto", {}),
        ("pallas", {"*": "pallas"}),
        ("pallas, top_k=cuda", {"*": "pallas", "top_k": "cuda"}),
        ("top_k=reference,paged_attention=cuda", {"top_k": "reference", "paged_attention": "cuda"}),
        ("auto,top_k=pallas", {"top_k": "pallas"}),
    ],
)
def test_settings(setting: str, asked: Mapping[str, str]) -> None:
    assert parse(setting) == asked


def test_every_op_has_a_name() -> None:
    assert {"paged_attention", "top_k", "rope_write", "gumbel_argmax", "matmul"} <= set(OPS)


def test_use_backend_nests_and_restores() -> None:
    offered = ("pallas", "reference")
    with use_backend("pallas"):
        assert resolve(None, offered, "top_k") == "pallas"
        with use_backend("reference"):
            assert resolve(None, offered, "top_k") == "reference"
        assert resolve(None, offered, "top_k") == "pallas"
    assert resolve(None, offered, "top_k") == "reference"


@pytest.mark.usefixtures("gpu")
def test_ops_may_differ_and_the_others_run_what_the_platform_does() -> None:
    with use_backend("top_k=reference"):
        assert resolve(None, ALL, "top_k") == "reference"
        assert resolve(None, ALL, "paged_attention") == "cuda"
    with use_backend("pallas,top_k=cuda"):
        assert resolve(None, ALL, "top_k") == "cuda"
        assert resolve(None, ALL, "paged_attention") == "pallas"


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown kernel backend 'triton'; known are 'reference', 'pallas', 'cuda'"):
        use_backend("triton").__enter__()
    with pytest.raises(ValueError, match="there is no op 'topk'; there are causal_conv"):
        parse("topk=cuda")
    with pytest.raises(ValueError, match="unknown kernel backend"):
        resolve("triton", ("reference",), "op")  # type: ignore[arg-type]


def test_an_explicit_backend_must_exist_but_a_default_one_falls_back() -> None:
    with pytest.raises(ValueError, match="op has no 'cuda' implementation here; it has 'pallas', 'reference'"):
        resolve("cuda", ("pallas", "reference"), "op")
    with use_backend("cuda"):
        assert resolve(None, ("pallas", "reference"), "op") == "reference"
        assert resolve("pallas", ("pallas", "reference"), "op") == "pallas"
