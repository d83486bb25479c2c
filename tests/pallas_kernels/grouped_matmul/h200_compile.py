"""Compiles grouped_mlp for an H200 on a machine that need not have one, and prints JSON about it.

Run by test_h200_compile.py in a process of its own, see tests/h200.py.
`python -m tests.pallas_kernels.grouped_matmul.h200_compile DIR [CASE...]` writes ptxas' log to DIR/CASE.
"""

import functools
import json
import re
import sys
from pathlib import Path
from typing import Any

from tests.h200 import compiler
from tests.pallas_kernels.h200_compile import talkative_ptxas

CASES = {  # name: tokens, k, experts, hidden, mlp, dtype, gpt-oss' activation and biases
    "qwen3_30b_1": (1, 8, 128, 2048, 768, "bfloat16", False),
    "qwen3_30b_32": (32, 8, 128, 2048, 768, "bfloat16", False),
    "qwen3_30b_256": (256, 8, 128, 2048, 768, "bfloat16", False),
    "qwen3_30b_8192": (8192, 8, 128, 2048, 768, "bfloat16", False),
    "gpt_oss_64": (64, 4, 32, 2880, 2880, "bfloat16", True),
    "gpt_oss_4096": (4096, 4, 32, 2880, 2880, "bfloat16", True),
    "float32": (256, 8, 128, 2048, 768, "float32", False),
}


def main(directory: Path, names: list[str]) -> None:
    mesh = compiler("x", talkative_ptxas(directory))
    import jax

    found = {}
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # Pallas asks it for the device kind
        for name in names:
            program = compile_case(mesh, *CASES[name])
            found[name] = program | {"ptxas": told(directory / "log")}
    print(json.dumps(found))


def compile_case(mesh: Any, tokens: int, k: int, X: int, E: int, F: int, dtype: str, gpt_oss: bool) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp

    from pallas_kernels.backend import use_backend
    from pallas_kernels.grouped_matmul import ClampedSwiglu, grouped_mlp

    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    array = functools.partial(jax.ShapeDtypeStruct, sharding=sharding)
    shapes = [((tokens, E), dtype), ((tokens, k), jnp.int32), ((tokens, k), jnp.float32), ((X, 2, F, E), dtype)]
    args = [array(*shape) for shape in (*shapes, ((X, E, F), dtype))]
    more: dict[str, Any] = (
        {"gate_up_bias": array((X, 2, F), dtype), "down_bias": array((X, E), dtype)} if gpt_oss else {}
    )
    activation = ClampedSwiglu() if gpt_oss else "silu"

    def op(*args: Any, **more: Any) -> Any:
        return grouped_mlp(*args, activation=activation, backend="pallas", **more)

    with use_backend("pallas"):  # the tiles too, whose CUDA kernel test_tiles_cuda.py compiles
        lowered = jax.jit(op).lower(*args, **more)
    compiled = lowered.compile({"xla_gpu_mock_custom_calls": True})
    text = compiled.as_text()
    entry = text[text.index("ENTRY") :]
    return {
        "kernels": len(re.findall(r" (?:fusion|custom-call|copy|reduce|sort|scatter|while)\(", entry)),
        "temp_bytes": compiled.memory_analysis().temp_size_in_bytes,
    }


def told(log: Path) -> dict[str, list[int]]:
    """[registers, spill stores, spill loads] of each kernel compiled since this was asked last."""
    text = log.read_text() if log.exists() else ""
    log.write_text("")
    spilled = r"(\d+) bytes spill stores, (\d+) bytes spill loads"
    pattern = rf"entry function '(grouped_matmul_\w+)'.*?{spilled}.*?Used (\d+) reg"
    found = re.findall(pattern, text, re.S)
    return {name: [int(registers), int(stores), int(loads)] for name, stores, loads, registers in found}


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or list(CASES))
