"""Block sizes of the Pallas attention kernels on this GPU: correct first, then how fast, over a small grid.

`python -m benchmarks.kernels --out results.json [--only check decode prefill]` prints tables. Decode is bound by
reading keys and values and is given in TB/s beside a plain reduction's; prefill in TFLOP/s of the causal products. The
implementations of all ops side by side: `jaxengine bench kernels`.
"""

import argparse
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxengine.kernel_timing import measure_floor, seconds
from pallas_kernels.paged_attention import decode, paged_attention, pages_shape, prefill
from pallas_kernels.paged_attention.scoring import Scoring
from pallas_kernels.paged_attention.tuning import DecodeBlocks, PrefillBlocks, decode_blocks, prefill_blocks

H, K, D, PAGE = 32, 8, 128, 16  # Llama-3.1-8B
COMPUTE: dict[str, Any] = {
    "scoring": Scoring(D**-0.5, None, None), "sinks": None, "kv_scale": None, "interpret": False
}  # fmt: skip
DECODE_CASES = ((256, 1024), (64, 2048), (32, 8192), (32, 1024), (1, 32768), (1, 1024))
DECODE_GRID = tuple(
    DecodeBlocks(keys, chunk, programs, warps, stages)
    for keys, chunk, programs, warps, stages in (
        (64, 256, 1024, 4, 3), (64, 256, 1024, 4, 4), (128, 256, 1024, 4, 2), (128, 256, 1024, 8, 3),
        (64, 128, 512, 4, 3), (64, 256, 512, 4, 3), (64, 512, 2048, 4, 3), (32, 128, 1024, 2, 4),
    )
)  # fmt: skip
PREFILL_CASES = ((2048, 0), (8192, 0), (2048, 14336))  # new tokens, tokens in the cache before
PREFILL_GRID = tuple(
    PrefillBlocks(rows, keys, warps, stages)
    for rows, keys, warps, stages in (
        (128, 64, 8, 3), (128, 64, 8, 2), (128, 64, 4, 3), (128, 128, 8, 2), (128, 32, 4, 3), (128, 64, 8, 4),
        (64, 64, 4, 3), (64, 128, 4, 2), (256, 64, 8, 2),
    )
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=["check", "decode", "prefill"])
    args = parser.parse_args()
    device = jax.devices()[0]
    results: dict[str, Any] = {"device": device.device_kind, "jax": jax.__version__}
    for name in args.only:
        started = time.perf_counter()
        results[name] = {"check": check, "decode": time_decode, "prefill": time_prefill}[name]()
        print(f"{name}: {time.perf_counter() - started:.0f} s\n", flush=True)
        args.out.write_text(json.dumps(results, indent=1))


def batch(query_lens: list[int], context_lens: list[int], dtype: Any = jnp.bfloat16) -> tuple[Array, ...]:
    """Arguments of paged_attention: random queries and pages, a shuffled page table."""
    rows, width = len(query_lens), -(-max(context_lens) // PAGE)
    table = np.random.default_rng(0).permutation(rows * width).reshape(rows, width)
    start = np.cumsum([0, *query_lens])
    key = jax.random.key(0)
    q = jax.random.normal(key, (int(start[-1]), H, D), dtype)
    kv = jax.random.normal(key, pages_shape(rows * width, PAGE, K, D), dtype)
    decoding = next((i for i, n in enumerate(query_lens) if n != 1), rows)
    return (q, kv, *(jnp.asarray(x, jnp.int32) for x in (table, start, context_lens, decoding)))


def sweep(grid: tuple[Any, ...], measure: Callable[[Any], float], *, limit: float) -> list[tuple[float, Any]]:
    """(seconds, blocks), fastest first. A configuration that does not compile is told and left out; after
    `limit` seconds, compilation included, no other is begun."""
    began, found = time.perf_counter(), []
    for blocks in dict.fromkeys(grid):
        if time.perf_counter() - began > limit:
            break
        try:
            found.append((measure(blocks), blocks))
        except Exception as error:
            print(f"  {blocks}: {str(error)[:100]!r}")
    return sorted(found, key=lambda pair: pair[0])


def check() -> list[dict[str, Any]]:
    """Relative error of the Pallas kernels against the reference, both on this device."""
    bfloat16, float32 = (jnp.bfloat16, 1e-2), (jnp.float32, 1e-5)
    cases: list[tuple[str, list[int], list[int], Any, dict[str, Any]]] = [
        ("decode", [1] * 4, [1300, 1, 64, 700], bfloat16, {}),
        ("decode", [1] * 4, [1300, 1, 64, 700], float32, {"softcap": 10.0}),
        ("decode", [1] * 4, [1300, 1, 64, 700], bfloat16, {"window": 200}),
        ("one long row", [1], [20000], bfloat16, {}),
        ("mixed", [1, 1, 500, 37], [900, 33, 500, 2000], bfloat16, {}),
        ("mixed", [1, 1, 500, 37], [900, 33, 500, 2000], float32, {}),
        ("mixed", [1, 1, 500, 37], [900, 33, 500, 2000], bfloat16, {"window": 200, "softcap": 10.0}),
    ]
    results = []
    for name, queries, contexts, (dtype, limit), static in cases:
        args = batch(queries, contexts, dtype)
        call = functools.partial(paged_attention, decode_only=max(queries) == 1, scale=D**-0.5, **static)
        got, want = (
            jax.jit(functools.partial(call, backend=backend))(*args).astype(jnp.float32)
            for backend in ("pallas", "reference")
        )
        error = float(jnp.linalg.norm(got - want) / jnp.linalg.norm(want))
        verdict = "ok" if error < limit else "WRONG"  # NaN is wrong
        kind = jnp.dtype(dtype).name
        print(f"{verdict:5} {name:12} {kind:8} {static!s:32} relative error {error:.1e}", flush=True)
        results.append({"case": name, "dtype": kind, **static, "error": error, "verdict": verdict})
    return results


def time_decode() -> dict[str, Any]:
    floor = measure_floor("bfloat16").bytes_per_second / 1e12
    print(f"a plain reduction reads {floor:.2f} TB/s")
    return {"reduction_TB/s": floor, "times": [row for case in DECODE_CASES for row in time_decode_case(*case)]}


def time_decode_case(rows: int, context: int) -> list[dict[str, Any]]:
    q, kv, table, _, lens, _ = batch([1] * rows, [context] * rows)
    size = rows * context * K * D * 2 * 2

    def measure(blocks: DecodeBlocks) -> float:
        def call(q: Array, kv: Array, table: Array, lens: Array) -> Array:
            tiles = decode.one_token_rows(lens, rows)
            return decode.attend(q, kv, table, tiles, None, tile_tokens=1, **COMPUTE, blocks=blocks)

        return seconds(call, (q, kv, table, lens), repeats=20)

    results = []
    for taken, blocks in sweep((decode_blocks(D, 2), *DECODE_GRID), measure, limit=8.0):
        rate = size / taken / 1e12
        print(f"decode {rows:3} x {context:5}  {taken * 1e6:7.1f} us  {rate:5.2f} TB/s  {blocks}", flush=True)
        results.append({"rows": rows, "context": context, "us": taken * 1e6, "TB/s": rate, **vars(blocks)})
    return results


def time_prefill() -> list[dict[str, Any]]:
    return [row for case in PREFILL_CASES for row in time_prefill_case(*case)]


def time_prefill_case(new: int, before: int) -> list[dict[str, Any]]:
    args = batch([new], [before + new])
    products = 4 * H * D * (new * before + new * (new + 1) // 2)

    def measure(blocks: PrefillBlocks) -> float:
        return seconds(functools.partial(prefill.attend, **COMPUTE, blocks=blocks), args, repeats=10)

    results = []
    for taken, blocks in sweep((prefill_blocks(D, 2), *PREFILL_GRID), measure, limit=14.0):
        rate = products / taken / 1e12
        print(f"prefill {new:4} on {before:5}  {taken * 1e6:8.1f} us  {rate:5.0f} TFLOP/s  {blocks}", flush=True)
        results.append({"new": new, "before": before, "us": taken * 1e6, "TFLOP/s": rate, **vars(blocks)})
    return results


if __name__ == "__main__":
    main()
