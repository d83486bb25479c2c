"""Block sizes of the experts' products on this GPU: correct first, then how fast, over a small grid.

`python -m benchmarks.experts --out results.json [--tokens 1 32 256 8192]` prints tables for a layer of Qwen3-30B-A3B.
Few tokens are bound by reading the experts that they chose and are given in TB/s beside a plain reduction's, many in
TFLOP/s. The implementations of all ops side by side: `jaxengine bench kernels`.
"""

import argparse
import dataclasses
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from benchmarks.kernels import sweep
from jaxengine.kernel_timing import measure_floor, seconds
from pallas_kernels.grouped_matmul import grouped_mlp, kernel
from pallas_kernels.grouped_matmul.tuning import Blocks, Sizes, sizes

CHOICES = 4  # of experts, in turn: those of one token would stay in the cache
READING = tuple(
    Blocks(outputs, inputs, warps, stages)
    for outputs, inputs, warps, stages in (
        (32, 128, 4, 3), (32, 128, 4, 5), (16, 256, 4, 3), (16, 256, 4, 4), (32, 256, 4, 3), (64, 128, 4, 3),
        (64, 128, 4, 4), (64, 64, 4, 4), (64, 64, 4, 6), (64, 128, 8, 3), (32, 64, 4, 6), (128, 64, 4, 4),
    )
)  # fmt: skip
MULTIPLYING = tuple(
    Blocks(outputs, inputs, warps, stages)
    for outputs, inputs, warps, stages in (
        (128, 64, 8, 3), (128, 64, 8, 4), (64, 64, 4, 3), (64, 64, 4, 4), (64, 64, 8, 4), (128, 32, 8, 4),
        (128, 64, 4, 3), (256, 64, 8, 3), (64, 128, 4, 3),
    )
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 8, 32, 256, 2048, 8192])
    parser.add_argument("--seconds", type=float, default=10.0, help="for each table, compilation included")
    for name, default in (("experts", 128), ("top-k", 8), ("hidden", 2048), ("mlp", 768)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    weights = random_weights(args.experts, args.hidden, args.mlp)
    floor = measure_floor("bfloat16")
    print(f"reads {floor.bytes_per_second / 1e12:.2f} TB/s, multiplies {floor.flops_per_second / 1e12:.0f} TFLOP/s")
    results: list[dict[str, Any]] = []
    for tokens in args.tokens:
        results += time_tokens(tokens, args.top_k, weights, args.seconds)
        args.out.write_text(json.dumps(results, indent=1))


def random_weights(experts: int, hidden: int, mlp: int) -> tuple[Array, Array]:
    """gate_up and down."""

    def normal(seed: int, *shape: int) -> Array:
        make = jax.jit(lambda key: jax.random.normal(key, shape, jnp.bfloat16) * shape[-1] ** -0.5)
        return make(jax.random.key(seed))

    return normal(0, experts, 2, mlp, hidden), normal(1, experts, hidden, mlp)


def time_tokens(tokens: int, k: int, weights: tuple[Array, Array], limit: float) -> list[dict[str, Any]]:
    (X, _, F, E), random = weights[0].shape, np.random.default_rng(0)
    chosen = random.random((CHOICES, tokens, X)).argsort(axis=2)[:, :, :k]
    x = jax.random.normal(jax.random.key(2), (tokens, E), jnp.bfloat16)
    share = jnp.full((tokens, k), 1 / k, jnp.float32)
    ours = sizes(tokens * k, X, E, F, 2)
    read = np.mean([len(np.unique(choice)) for choice in chosen]) * 6 * E * F
    work = 6 * tokens * k * E * F
    print(f"{tokens} tokens: {error(x, jnp.asarray(chosen[0]), share, weights, ours):.1e} relative error")

    def measure(sizes: Sizes) -> float:
        def call(x: Array, chosen: Array, share: Array, gate_up: Array, down: Array) -> list[Array]:
            return [run(x, choice, share, gate_up, down, sizes) for choice in chosen]

        args = x, jnp.asarray(chosen, jnp.int32), share, *weights
        return seconds(call, args, repeats=5 if tokens > 1024 else 20) / CHOICES

    results = []
    for name, grid in candidates(ours):
        for taken, blocks in sweep(grid, measure, limit=limit):
            row = {"tokens": tokens, "varied": name, "us": taken * 1e6, "TB/s": read / taken / 1e12}
            row |= {"TFLOP/s": work / taken / 1e12, "sizes": dataclasses.asdict(blocks)}
            part = blocks if name == "rows" else getattr(blocks, name)
            print(
                f"{tokens:5} {row['us']:9.1f} us {row['TB/s']:5.2f} TB/s {row['TFLOP/s']:5.0f} TFLOP/s  {name}: {part}"
            )
            results.append(row)
    return results


def candidates(ours: Sizes) -> Iterator[tuple[str, tuple[Sizes, ...]]]:
    """What is varied, and its grid, ours first."""
    grid = MULTIPLYING if ours.rows == 128 else READING
    for name in ("gate_up", "down"):
        yield name, (ours, *(dataclasses.replace(ours, **{name: blocks}) for blocks in grid))
    yield "rows", (ours, *(dataclasses.replace(ours, rows=rows) for rows in (16, 32, 64, 128)))


def run(x: Array, chosen: Array, share: Array, gate_up: Array, down: Array, sizes: Sizes) -> Array:
    call = functools.partial(kernel.mlp, gate_up_bias=None, down_bias=None, activation="silu")
    return call(x, chosen, share, gate_up, down, weigh_inputs=False, sizes=sizes)


def error(x: Array, chosen: Array, share: Array, weights: tuple[Array, Array], sizes: Sizes) -> float:
    """Of the first tokens, against the reference."""
    some = x[:64], chosen[:64], share[:64]
    want = jax.jit(functools.partial(grouped_mlp, backend="reference"))(*some, *weights).astype(jnp.float32)
    got = jax.jit(functools.partial(run, sizes=sizes))(x, chosen, share, *weights)[:64].astype(jnp.float32)
    return float(jnp.linalg.norm(got - want) / jnp.linalg.norm(want))


if __name__ == "__main__":
    main()
