"""Who may import whom: the layers of docs/architecture.md, read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import jaxengine

ROOT = Path(__file__).parent.parent
PACKAGES = ("jaxengine", "pallas_kernels", "torch_compat", "serving")
TORCH = {"torch", "torchax", "torchvision"}
NO_JAX = (
    "admission",
    "arguments",
    "beam_search",
    "buckets",
    "chat_template",
    "client_metrics",
    "client_streams",
    "config",
    "detokenize",
    "engine_client",
    "engine_errors",
    "engine_tokenizer",
    "grammar",
    "grammar_tags",
    "grammar_text",
    "grammar_tokens",
    "invalid_request",
    "metrics",
    "newcomers",
    "outputs",
    "page_registry",
    "pages",
    "plan",
    "prefix_cache",
    "prompts",
    "request",
    "sampling_params",
    "supervisor",
    "wire",
    "scheduler",
    "structured_outputs",
    "token_bytes",
    "tokenizer",
    "waiting",
)
HTTP = {"fastapi", "uvicorn", "starlette", "httptools", "uvloop"}

# module prefix → prefixes of our own modules that it must never import
FORBIDDEN = {
    "pallas_kernels": ("jaxengine", "torch_compat", "serving"),
    "jaxengine": ("serving",),
    "jaxengine.layers": (
        "jaxengine.models",
        "jaxengine.engine",
        "jaxengine.runner",
        "jaxengine.scheduler",
        "torch_compat",
    ),
    "jaxengine.cache": (
        "jaxengine.models",
        "jaxengine.engine",
        "jaxengine.runner",
        "jaxengine.scheduler",
        "torch_compat",
    ),
    "jaxengine.models": (
        "jaxengine.engine",
        "jaxengine.runner",
        "jaxengine.scheduler",
        "jaxengine.step",
        "torch_compat",
    ),
    "jaxengine.step": ("jaxengine.engine", "jaxengine.runner", "jaxengine.models.decoder", "torch_compat"),
    "jaxengine.runner": ("jaxengine.engine", "jaxengine.models.decoder", "torch_compat"),
    "jaxengine.core": ("jaxengine.models.decoder", "jaxengine.engine", "jaxengine.outputs", "torch_compat"),
    "jaxengine.engine": ("jaxengine.models.decoder", "jaxengine.llm", "torch_compat"),
    "torch_compat": ("jaxengine.engine", "jaxengine.scheduler", "jaxengine.runner", "jaxengine.llm", "serving"),
    "serving": ("pallas_kernels", "torch_compat", "jaxengine.scheduler", "jaxengine.runner", "jaxengine.step"),
}


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


MODULES = modules()


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_downwards(module: str) -> None:
    used = imports(MODULES[module])
    for layer, forbidden in FORBIDDEN.items():
        if within(module, layer):
            wrong = {name for name in used for prefix in forbidden if within(name, prefix)}
            assert not wrong, f"{module} must not import {', '.join(sorted(wrong))}"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_only_torch_compat_may_know_torch_and_only_serving_http(module: str) -> None:
    tops = {name.split(".")[0] for name in imports(MODULES[module])}
    if not within(module, "torch_compat"):
        assert not tops & TORCH
    if not within(module, "serving"):
        assert not tops & HTTP


def test_the_host_side_needs_no_jax() -> None:
    """Neither these modules nor what they import; in a process of its own, since jax is in this one already."""
    script = f"import sys, {', '.join(f'jaxengine.{name}' for name in NO_JAX)}, serving.cli\n"
    script += "print(*{'jax', 'torch', 'transformers'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.stdout.strip(), result.stderr) == ("", "")


def test_public_names_are_found_when_asked_for() -> None:
    assert set(jaxengine.__all__) <= set(dir(jaxengine))
    for name in jaxengine.__all__:
        value = getattr(jaxengine, name)
        assert value.__name__ == name
        assert vars(jaxengine)[name] is value
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        jaxengine.Nothing  # noqa: B018
    with pytest.raises(ImportError):
        from jaxengine import Nothing  # noqa: F401


def test_only_build_reaches_for_the_hugging_face_side() -> None:
    users = {
        m for m in MODULES if within(m, "jaxengine") and any(within(n, "torch_compat") for n in imports(MODULES[m]))
    }
    assert users == {"jaxengine.build", "jaxengine.engine_tokenizer", "jaxengine.model_list"}


def test_kernels_import_jax_and_numpy_only() -> None:
    allowed = {"jax", "numpy", "pallas_kernels", "ml_dtypes"}
    stdlib = sys.stdlib_module_names
    for module, path in MODULES.items():
        if within(module, "pallas_kernels"):
            tops = {name.split(".")[0] for name in imports(path)}
            assert tops <= allowed | stdlib, f"{module} imports {sorted(tops - allowed - stdlib)}"
