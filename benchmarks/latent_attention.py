"""Block sizes of the latent attention kernels on this GPU, over a small grid; the reference checks each of them first.

`python -m benchmarks.latent_attention --out results.json [--heads 16]` prints tables. Decode is bound by reading
latents and is given in TB/s beside a plain reduction's; prefill in TFLOP/s, of new tokens by keys and values of their
own and of what is before them by absorption. The implementations of all ops side by side: `jaxengine bench kernels`.
"""

import argparse
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from benchmarks.kernels import sweep
from jaxengine.kernel_timing import measure_floor, seconds
from pallas_kernels.latent_attention import decode, new_tokens, pages_shape, prefill, reference, tuning
from pallas_kernels.paged_attention.tuning import DecodeBlocks, PrefillBlocks

R, DR, DN, DV, PAGE, SCALE = 512, 64, 128, 128, 16, 192**-0.5  # DeepSeek's
DECODE_CASES = ((256, 1024), (32, 8192), (32, 1024), (1, 32768), (1, 1024))
DECODE_GRID = tuple(
    DecodeBlocks(keys, 128, programs, warps, stages)
    for programs in (132, 264)
    for keys, warps, stages in ((32, 4, 2), (32, 4, 4), (64, 8, 2), (32, 8, 4), (16, 4, 4))
)  # fmt: skip
PREFILL_CASES = ((2048, 0), (8192, 0), (2048, 14336))  # new tokens, tokens in the cache before
BEFORE_GRID = tuple(PrefillBlocks(rows, keys, 8, 2) for rows, keys in ((32, 64), (16, 64), (64, 64)))
NEW_GRID = tuple(
    PrefillBlocks(rows, keys, warps, stages)
    for rows, keys, warps, stages in (
        (128, 64, 8, 2), (128, 64, 8, 3), (128, 128, 8, 2), (128, 32, 4, 3), (64, 64, 4, 2), (64, 128, 4, 2),
    )
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--decode-only", action="store_true")
    args = parser.parse_args()
    floor = measure_floor("bfloat16").bytes_per_second / 1e12
    print(f"a plain reduction reads {floor:.2f} TB/s")
    rows = [row for case in DECODE_CASES for row in time_decode(args.heads, *case)]
    for case in () if args.decode_only else PREFILL_CASES:
        rows += time_prefill(args.heads, *case)
    args.out.write_text(json.dumps({"device": jax.devices()[0].device_kind, "TB/s": floor, "times": rows}, indent=1))


def paged(heads: int, rows: int, new: int, context: int) -> tuple[Array, ...]:
    """Absorbed queries, pages, page table, starts of rows and lengths of contexts, all random."""
    width, keys = -(-context // PAGE), jax.random.split(jax.random.key(0), 3)
    table = np.random.default_rng(0).permutation(rows * width).reshape(rows, width)
    q, q_rope = (jax.random.normal(keys[i], (rows * new, heads, n), jnp.bfloat16) for i, n in enumerate((R, DR)))
    pages = jax.random.normal(keys[2], pages_shape(rows * width, PAGE, R, DR), jnp.bfloat16)
    ints = table, np.arange(rows + 1) * new, np.full(rows, context)
    return (q, q_rope, pages, *(jnp.asarray(x, jnp.int32) for x in ints))


def time_decode(heads: int, rows: int, context: int) -> list[dict[str, Any]]:
    *arrays, start, lengths = paged(heads, rows, 1, context)

    def call(*args: Array, blocks: DecodeBlocks) -> Array:
        *arrays, lengths = args
        tiles = decode.one_token_rows(lengths, rows)
        return decode.attend(*arrays, tiles, None, tile_tokens=1, scale=SCALE, blocks=blocks, interpret=False)

    want = jax.jit(functools.partial(reference.attend, decode_only=True, scale=SCALE))(
        *arrays, start, lengths, jnp.int32(rows)
    )
    moved = rows * context * (R + DR) * 2
    return timed(
        f"decode {rows} x {context}", (tuning.decode_blocks(2, 1, heads), *DECODE_GRID), call, (*arrays, lengths), want,
        moved, "TB/s",
    )  # fmt: skip


def time_prefill(heads: int, new: int, before: int) -> list[dict[str, Any]]:
    """One row; what is before its new tokens, then these themselves."""
    *arrays, start, lengths = paged(heads, 1, new, new + before)
    none, rows = jnp.int32(0), []

    def call_before(*args: Array, blocks: PrefillBlocks) -> Array:
        return prefill.attend(*args, none, before=True, scale=SCALE, blocks=blocks, interpret=False)[0]

    def call_new(*args: Array, blocks: PrefillBlocks) -> Array:
        return new_tokens.attend(*args, start, none, scale=SCALE, blocks=blocks, interpret=False)[0]

    if before:
        flops = 2 * heads * new * before * (2 * R + DR)
        rows += timed(
            f"{new} on {before} before", (tuning.prefill_blocks(2), *BEFORE_GRID), call_before,
            (*arrays, start, lengths), None, flops, "TFLOP/s",
        )  # fmt: skip
    q, k, v = (jax.random.normal(jax.random.key(i), (new, heads, n), jnp.bfloat16) for i, n in enumerate((DN, DN, DV)))
    latents = jax.random.normal(jax.random.key(3), (new, R + DR), jnp.bfloat16)
    flops = heads * new * (new + 1) * (DN + DR + DV)
    return rows + timed(
        f"{new} new", (tuning.new_tokens_blocks(128, 2), *NEW_GRID), call_new, (q, arrays[1], k, latents, v), None,
        flops, "TFLOP/s",
    )  # fmt: skip


def timed(
    name: str, grid: tuple[Any, ...], call: Callable[..., Array], args: tuple[Array, ...], want: Array | None,
    work: float, unit: str,
) -> list[dict[str, Any]]:  # fmt: skip
    """Rows of the table, fastest first; without a `want`, the first blocks are the measure of the others."""
    expected = want

    def measure(blocks: Any) -> float:
        nonlocal expected
        run = functools.partial(call, blocks=blocks)
        got = jax.jit(run)(*args).astype(jnp.float32)
        expected = got if expected is None else expected
        error = float(jnp.linalg.norm(got - expected) / jnp.linalg.norm(expected.astype(jnp.float32)))
        if not error < 1e-2:  # NaN is wrong
            raise ValueError(f"differs by {error:.1e}")
        return seconds(run, args, repeats=10)

    found = []
    for taken, blocks in sweep(grid, measure, limit=12.0):
        rate = work / taken / 1e12
        print(f"{name:24} {taken * 1e6:8.1f} us  {rate:6.2f} {unit}  {blocks}", flush=True)
        found.append({"case": name, "us": taken * 1e6, unit: rate, **vars(blocks)})
    return found


if __name__ == "__main__":
    main()
