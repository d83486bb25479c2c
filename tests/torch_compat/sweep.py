"""Every causal language model of transformers, tiny and random, through our pages against transformers' eager forward.

`python -m tests.torch_compat.sweep` runs all types and writes docs/models_torch.md; with names of types it writes their
rows alone. The tests run a few (`check`).
"""

from __future__ import annotations

import copy
import multiprocessing
import re
import resource
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxengine.cache.full import PagedRows
from jaxengine.cache.groups import arrange
from jaxengine.sharding import make_mesh, named_sharding
from tests.torch_compat.tiny_configs import VOCABULARY, tiny_config

PAGE, SLOTS = 4, 3  # of which the last is scratch
PROMPTS = 6, 21  # tokens of two requests, the last of which is decoded
PAGES = tuple(-(-n // PAGE) for n in PROMPTS)
STEPS = (((0, 4), (0, 13)), ((4, 5), (13, 20)), ((5, 6), (20, 21)))
"""Tokens of each request in each step: two prompts, a decode beside the rest of a prompt, decode alone."""
PROCESSES, SECONDS, BYTES = 2, 300, 8 << 30  # of which each has so many
PAGE_FILE = Path(__file__).parents[2] / "docs" / "models_torch.md"
TABLES = "## What matches"
LOOP = "its experts are a loop over those that tokens chose"
REASONS = {
    "blt": "not tried: no small config of its parts here",
    "gemma4_assistant": "not tried: transformers has no small config of it",
    "dbrx": LOOP,
    "jetmoe": LOOP,
    "longcat_flash": LOOP,
    "musicgen": "not tried: it has several codebooks of sound",
    "musicgen_melody": "not tried: it has several codebooks of sound",
    "xmod": "its adapters are chosen by the languages of the rows",
    "zaya": "its mixer returns more than an output",
    "qwen4_exp": "not tried: transformers has no small config of it",
    "qwen4_exp_text": "not tried: transformers has no small config of it",
}
CLOSE = 1e-4  # of the largest logit


@dataclass(frozen=True)
class Result:
    """What came of one type."""

    name: str
    architecture: str
    error: float | None = None  # largest difference of logits, over the largest logit
    reason: str = ""  # why there is none
    seconds: float = 0.0

    @property
    def matches(self) -> bool:
        return self.error is not None and self.error < CLOSE


def check_alone(name: str) -> Result:
    """`check` within limits, in a process of its own: some types have no tiny config."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"no result after {SECONDS} seconds")

    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        return check(name)
    finally:
        signal.alarm(0)


def check(name: str) -> Result:
    """Run one model type."""
    start = time.perf_counter()
    architecture = ""
    try:
        config = tiny_config(name)
        reference = reference_model(config)
        architecture = type(reference).__name__
        error = compare(reference, config)
    except Exception as problem:
        first = (str(problem).strip() or "no message").splitlines()[0]
        return Result(name, architecture, None, f"{type(problem).__name__}: {first}", time.perf_counter() - start)
    return Result(name, architecture, error, "", time.perf_counter() - start)


def reference_model(config: Any) -> Any:
    """transformers' own model, random, every parameter of it mattering."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    torch.set_num_threads(1)  # tiny products: more threads only wait for one another
    config = copy.deepcopy(config)
    config.use_cache = config.get_text_config(decoder=True).use_cache = False
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn_like(parameter) * parameter.shape[-1] ** -0.5)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def compare(reference: Any, config: Any, tp: int = 1) -> float:
    """Largest difference of any token's logits, over the largest logit."""
    import torch

    from torch_compat.module import TorchModel
    from torch_compat.skeleton import build_module

    module = build_module(config, jnp.dtype(jnp.float32))
    model = TorchModel(module, make_mesh(tp), page_size=PAGE)
    weights = weights_of(model, reference)
    ours = [np.zeros((n, model.config.vocab_size), np.float32) for n in PROMPTS]
    caches, groups = new_caches(model)
    step = jax.jit(
        lambda weights, caches, tokens, positions, rows: _step(model, weights, caches, tokens, positions, rows),
        donate_argnums=1,
    )
    for parts in STEPS:
        tokens, positions, rows = batch(prompts(), parts, groups)
        logits, caches = step(weights, caches, tokens, positions, rows)
        for s, (begin, end) in enumerate(parts):
            first = int(rows.query_start[s])
            ours[s][begin:end] = logits[first : first + end - begin]
    with torch.no_grad():
        theirs = [reference(torch.tensor(prompt[None]).long()).logits[0].numpy() for prompt in prompts()]
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(ours, theirs, strict=True))


def prompts() -> list[np.ndarray]:
    """The tokens of each request."""
    return [np.random.default_rng(i).integers(3, VOCABULARY, n).astype(np.int32) for i, n in enumerate(PROMPTS)]


def weights_of(model: Any, reference: Any) -> dict[str, jax.Array]:
    """The reference's parameters and buffers on the model's mesh."""
    from torch_compat.torch_files import numpy_view

    tensors = dict(reference.named_parameters(remove_duplicate=False)) | dict(reference.named_buffers())
    return {
        name: jax.device_put(numpy_view(tensors[name]).reshape(spec.shape), named_sharding(model.mesh, spec.axes))
        for name, spec in model.weight_specs().items()
    }


def new_caches(model: Any) -> tuple[tuple[Any, ...], int]:
    """(caches with rubbish in them, which nobody may read; groups of layers that have pages of their own)."""
    places = arrange(model.cache_specs())
    groups = 1 + max(places.group)

    def make(array: jax.ShapeDtypeStruct, spec: jax.sharding.PartitionSpec) -> jax.Array:
        rubbish = np.full(array.shape, 7.0, np.float32).astype(array.dtype)
        return jax.device_put(rubbish, jax.sharding.NamedSharding(model.mesh, spec))

    pages = 1 + groups * sum(PAGES)
    caches = (jax.tree.map(make, spec.arrays(pages, SLOTS), spec.partition_spec) for spec in places.arrays)
    return tuple(caches), groups


def batch(
    prompts: list[np.ndarray], parts: Sequence[tuple[int, int]], groups: int
) -> tuple[np.ndarray, np.ndarray, PagedRows]:
    """Tokens, positions and rows of a step that has parts[s] of each prompt."""
    counts = [end - begin for begin, end in parts]
    tokens = np.concatenate([prompt[begin:end] for prompt, (begin, end) in zip(prompts, parts, strict=True)])
    positions = np.concatenate([np.arange(begin, end, dtype=np.int32) for begin, end in parts])
    row = np.repeat(np.arange(len(parts)), counts)
    tables = np.zeros((groups, len(parts), max(PAGES)), np.int32)
    free = iter(np.random.default_rng(0).permutation(np.arange(1, 1 + groups * sum(PAGES))))
    for table in tables:
        for s, pages in enumerate(PAGES):
            table[s, :pages] = [next(free) for _ in range(pages)]
    first, *others = [(table, table[row, positions // PAGE]) for table in tables]
    rows = PagedRows(
        page_table=first[0],
        query_start=np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        context_len=np.array([end for _, end in parts], np.int32),
        num_decode=np.int32(sum(begin > 0 and end - begin == 1 for begin, end in parts)),
        write_page=first[1],
        write_offset=positions % PAGE,
        slot=np.array([1, 0], np.int32),
        other_groups=tuple(others),
        decode_only=all(count == 1 for count in counts),
    )
    return tokens, positions, rows


def _step(
    model: Any, weights: dict[str, Any], caches: tuple[Any, ...], tokens: Any, positions: Any, rows: PagedRows
) -> tuple[jax.Array, tuple[Any, ...]]:
    hidden, caches = model.forward(weights, caches, tokens, positions, rows)
    return model.logits(weights, hidden), caches


def main(names: list[str]) -> None:
    """Check the named types, or all of them, in processes of their own; print a line each, and write the page."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as ALL

    todo = names or sorted(ALL)
    results = []
    with multiprocessing.get_context("spawn").Pool(min(PROCESSES, len(todo)), maxtasksperchild=25) as pool:
        for result in pool.imap_unordered(check_alone, todo):
            shown = f"{result.error:.1e}" if result.error is not None else result.reason
            print(f"{result.name:26}{'ok ' if result.matches else 'NO '}{shown}  {result.seconds:.1f} s", flush=True)
            results.append(result)
    print(f"{sum(result.matches for result in results)} of {len(results)} match")
    write_page(results, keep=bool(names))


def write_page(results: list[Result], keep: bool) -> None:
    """docs/models_torch.md with a row for each result, beside those that it has already if they are to be kept."""
    head, _, tables = PAGE_FILE.read_text().partition(TABLES)
    rows = dict(re.findall(r"^\| `([^`]+)` (\|.*)$", tables, re.MULTILINE)) if keep else {}
    for result in results:
        if result.matches:
            rows[result.name] = f"| `{result.architecture}` | {result.error:.0e} |"
        else:
            rows[result.name] = f"| {REASONS.get(result.name) or _reason(result)} |"
    good = [name for name in sorted(rows) if rows[name].count("|") == 3]
    lines = [
        TABLES, "", f"{len(good)} of {len(rows)} types match.", "", "| type | class | difference |", "|---|---|---|",
        *(f"| `{name}` {rows[name]}" for name in good), "", "| type | why it is not served |", "|---|---|",
        *(f"| `{name}` {row}" for name, row in sorted(rows.items()) if name not in good),
    ]  # fmt: skip
    PAGE_FILE.write_text(head + "\n".join(lines) + "\n")


def _reason(result: Result) -> str:
    if result.error is not None:
        return f"logits differ by {result.error:.0e}"
    return result.reason.removeprefix("UnsupportedModel: ").removeprefix(f"{result.architecture}: ").rstrip(".")


if __name__ == "__main__":
    main(sys.argv[1:])
