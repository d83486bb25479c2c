"""Which tiles XLA's Triton products of few tokens need: times XLA's candidates on this GPU and chooses those that win.

    python -m benchmarks.gemm_tiles --configs llama-3.1-8b.json qwen3-0.6b.json

Prints what goes into jaxengine/gemm_tiles.txtpb, and for every product how far the best of the chosen ones and cuBLAS
is from the best candidate. Every product is compiled by itself, and XLA writes down how long each candidate took.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

ROWS = (1, 8, 32)  # the decode buckets below programs.CUBLAS_FROM
FIELDS = ("block_m", "block_n", "block_k", "num_stages", "num_warps", "num_ctas", "is_tma_allowed")
CUBLAS = "cuBLAS"  # stands for all of its candidates
Times = dict[str, float]  # candidate → microseconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", type=Path, nargs="+", required=True, help="published config.json files")
    parser.add_argument("--number", type=int, default=7, help="of tiles to choose")
    arguments = parser.parse_args()
    measured = {
        f"{path.stem} {name}, {rows} tokens": candidates(rows, outputs, inputs)
        for path in arguments.configs
        for name, outputs, inputs in products(json.loads(path.read_text()))
        for rows in ROWS
    }
    measured = {name: times for name, times in measured.items() if times}
    chosen = choose(list(measured.values()), arguments.number)
    print("\n".join(f"config {{ {tile} }}" for tile in chosen))
    for name, times in measured.items():
        print(f"# {name}: {min(times.values()):.1f} us, {loss(times, chosen):.3f} of it with the tiles above")


def products(config: dict[str, Any]) -> Iterator[tuple[str, int, int]]:
    """Name, outputs and inputs of each weight of a dense decoder."""
    hidden, mlp, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    yield "qkv", (heads + 2 * config["num_key_value_heads"]) * head, hidden
    yield "o", hidden, heads * head
    yield "gate_up", 2 * mlp, hidden
    yield "down", hidden, mlp
    yield "head", config["vocab_size"], hidden


def candidates(rows: int, outputs: int, inputs: int) -> Times:
    """All candidates of a product of `rows` tokens with a weight [outputs, inputs]; none where XLA does not tune it."""
    x, weight = (jax.ShapeDtypeStruct((size, inputs), jnp.bfloat16) for size in (rows, outputs))
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "log.textproto"
        jax.jit(lambda x, weight: jnp.einsum("te,fe->tf", x, weight)).lower(x, weight).compile(
            {"xla_gpu_dump_autotune_logs_to": str(log), "xla_gpu_experimental_enable_fusion_autotuner": False}
        )
        return read(log.read_text()) if log.exists() else {}


def read(log: str) -> Times:
    """Candidates and their times in a log that XLA wrote (an xla.autotuner.AllRawConfigProfiles as text)."""
    times: Times = {}
    for profile in log.split("config_profiles {")[1:]:
        if found := re.search(r"nanos: (\d+)", profile):
            tile = " ".join(
                f"{field}: {value[1]}" for field in FIELDS if (value := re.search(rf"{field}: (\w+)", profile))
            )
            name = tile if "backend: TRITON" in profile else CUBLAS
            times[name] = min(times.get(name, float("inf")), int(found[1]) / 1e3)
    return times


def choose(measured: list[Times], number: int) -> list[str]:
    """Greedily the tiles with which, beside cuBLAS, the products lose least against the best of all candidates."""
    chosen: list[str] = []
    tiles = sorted({tile for times in measured for tile in times} - {CUBLAS})
    while len(chosen) < min(number, len(tiles)):
        left = [tile for tile in tiles if tile not in chosen]
        chosen.append(min(left, key=lambda tile: sum(loss(times, [*chosen, tile]) ** 2 for times in measured)))
    return chosen


def loss(times: Times, chosen: list[str]) -> float:
    """The time of the best of cuBLAS and the chosen tiles over that of the best candidate."""
    offered = [times[name] for name in (CUBLAS, *chosen) if name in times]
    return min(offered, default=10 * max(times.values())) / min(times.values())


if __name__ == "__main__":
    main()
