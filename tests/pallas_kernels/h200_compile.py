"""Compiles rope_write and paged_attention for an H200 on a machine that need not have one, and prints JSON about it.

Run by test_h200_compile.py in a process of its own, see tests/h200.py.
`python -m tests.pallas_kernels.h200_compile DIR` writes ptxas' log to DIR.
"""

import functools
import json
import re
import shutil
import sys
from pathlib import Path

from tests.h200 import compiler

CASES = {  # name: rows, tokens, query heads, kv heads, decode_only[, pages of eight bits, and sinks]
    "llama_8b_decode_1": (1, 1, 32, 8, True),
    "llama_8b_decode_256": (256, 256, 32, 8, True),
    "llama_8b_mixed_1024": (512, 1024, 32, 8, False),
    "llama_8b_mixed_2048": (64, 2048, 32, 8, False),
    "qwen3_0.6b_decode_32": (32, 32, 16, 8, True),
    "qwen3_0.6b_mixed_512": (32, 512, 16, 8, False),
    "fp8_decode_32": (32, 32, 32, 8, True, True),
    "fp8_mixed_512": (32, 512, 32, 8, False, True),
}
PAGES, PAGE, WIDTH, HEAD_DIM, LAYERS = 2048, 16, 512, 128, 2


def main(directory: Path) -> None:
    mesh = compiler("x", talkative_ptxas(directory))
    import jax

    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # Pallas asks it for the device kind
        found = {name: compile_case(mesh, *case) for name, case in CASES.items()}
    print(json.dumps({"programs": found, "ptxas": told(directory)}))


def compile_case(  # type: ignore[no-untyped-def]
    mesh, rows: int, tokens: int, heads: int, kv_heads: int, decode_only: bool, narrow: bool = False
) -> dict:
    import jax
    import jax.numpy as jnp

    from pallas_kernels.paged_attention import paged_attention, pages_shape
    from pallas_kernels.rope_write import rope_write

    def step(layers, qkv, cos, sin, page, offset, *rows, **extras):  # type: ignore[no-untyped-def]
        done = []
        for kv_pages in layers:
            q, kv_pages = rope_write(qkv, cos, sin, kv_pages, page, offset, backend="pallas")
            q = paged_attention(q, kv_pages, *rows, decode_only=decode_only, scale=0.088, backend="pallas", **extras)
            qkv = jnp.concatenate([q.reshape(qkv[:, :, :-2].shape), qkv[:, :, -2:]], axis=2)
            done.append(kv_pages)
        return q, tuple(done)

    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    array = functools.partial(jax.ShapeDtypeStruct, sharding=sharding)
    pool = array(pages_shape(PAGES, PAGE, kv_heads, HEAD_DIM), jnp.float8_e4m3fn if narrow else jnp.bfloat16)
    extras = {"sinks": array((heads,), jnp.float32), "kv_scale": array((2, kv_heads), jnp.float32)} if narrow else {}
    qkv = array((tokens, kv_heads, heads // kv_heads + 2, HEAD_DIM), jnp.bfloat16)
    angle = array((tokens, HEAD_DIM // 2), jnp.float32)
    ints = [array(s, jnp.int32) for s in ((tokens,), (tokens,), (rows, WIDTH), (rows + 1,), (rows,), ())]
    args = ((pool,) * LAYERS, qkv, angle, angle, *ints)
    compiled = jax.jit(step, donate_argnums=0).lower(*args, **extras).compile({"xla_gpu_mock_custom_calls": True})
    text, memory = compiled.as_text(), compiled.memory_analysis()
    copies = re.findall(
        rf"\w+\[(?:{','.join(map(str, pool.shape))}|{pool.size // HEAD_DIM},{HEAD_DIM})\]\S* copy\(", text
    )
    entry = text[text.index("ENTRY") :]
    return {
        "pool_bytes": LAYERS * pool.size * pool.dtype.itemsize,
        "alias_bytes": memory.alias_size_in_bytes,
        "temp_bytes": memory.temp_size_in_bytes,
        "pool_copies": sum(map(len, copies)),
        "kernels": len(re.findall(r" (?:fusion|custom-call|copy|reduce|sort|scatter|while)\(", entry)),
        "attention_kernels": sorted(set(re.findall(r"paged_attention_(?:decode|merge|prefill)", text))),
    }


def talkative_ptxas(directory: Path) -> str:
    """Flag that makes XLA call a ptxas which logs registers and spills of each kernel; empty without ptxas."""
    ptxas = shutil.which("ptxas")
    if ptxas is None:
        return ""
    toolkit = Path(ptxas).resolve().parents[1]
    (directory / "bin").mkdir(parents=True, exist_ok=True)
    (directory / "nvvm").symlink_to(toolkit / "nvvm")
    script = directory / "bin" / "ptxas"
    script.write_text(f'#!/bin/sh\nexec {toolkit}/bin/ptxas -v "$@" 2>>{directory}/log\n')
    script.chmod(0o755)
    return f"--xla_gpu_cuda_data_dir={directory}"


def told(directory: Path, op: str = "paged") -> dict[str, list[int]]:
    """[registers, spill stores, spill loads] of each kernel of {op}_attention, the largest of its compilations."""
    log = directory / "log"
    most: dict[str, list[int]] = {}
    spilled = r"(\d+) bytes spill stores, (\d+) bytes spill loads"
    pattern = rf"entry function '({op}_attention_\w+)'.*?{spilled}.*?Used (\d+) reg"
    for name, stores, loads, registers in re.findall(pattern, log.read_text() if log.exists() else "", re.S):
        now = [int(registers), int(stores), int(loads)]
        most[name] = [max(pair) for pair in zip(now, most.get(name, now), strict=True)]
    return most


if __name__ == "__main__":
    main(Path(sys.argv[1]))
