"""Compiles the single steps of recurrent ops for an H200 on a machine that need not have one, and prints JSON about it.

Run by test_recurrent_h200.py in a process of its own, see tests/h200.py.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from tests.h200 import compiler
from tests.pallas_kernels.h200_compile import talkative_ptxas

SLOTS = 257
QWEN3_NEXT = {"keys": 16, "heads": 32, "K": 128, "V": 128}
NEMOTRON_H_8B = {"groups": 8, "heads": 128, "P": 64, "N": 128}
CASES: dict[str, tuple[str, dict[str, int], int, int]] = {  # op, sizes of a published model, rows, tokens
    "qwen3_next_1": ("gated_delta", QWEN3_NEXT, 1, 1),
    "qwen3_next_256": ("gated_delta", QWEN3_NEXT, 256, 256),
    "qwen3_next_mixed_2048": ("gated_delta", QWEN3_NEXT, 64, 2048),
    "nemotron_h_8b_64": ("state_space", NEMOTRON_H_8B, 64, 64),
    "nemotron_h_8b_mixed_2048": ("state_space", NEMOTRON_H_8B, 64, 2048),
    "granite_4_h_small_256": ("state_space", NEMOTRON_H_8B | {"groups": 1}, 256, 256),
}


def main(directory: Path) -> None:
    mesh = compiler("x", talkative_ptxas(directory))
    import jax

    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # Pallas asks it for the device kind
        found = {name: compile_case(mesh, *case) for name, case in CASES.items()}
    print(json.dumps({"programs": found, "ptxas": told(directory)}))


def compile_case(mesh: Any, op: str, sizes: dict[str, int], rows: int, tokens: int) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp

    from pallas_kernels.backend import use_backend
    from pallas_kernels.causal_conv import causal_conv
    from pallas_kernels.gated_delta import gated_delta
    from pallas_kernels.state_space import state_space

    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    def array(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    half = jnp.bfloat16
    heads = sizes["heads"]
    if op == "gated_delta":
        keys, K, V = sizes["keys"], sizes["K"], sizes["V"]
        mixed = array(tokens, keys, 2 * K + heads // keys * V, dtype=half)
        inputs = mixed, array(tokens, heads), array(tokens, heads)
        state, run = array(SLOTS, heads, K, V), gated_delta
    else:
        groups, P, N = sizes["groups"], sizes["P"], sizes["N"]
        mixed = array(tokens, groups, heads // groups * P + 2 * N, dtype=half)
        inputs = mixed, array(tokens, heads), array(heads), array(heads)
        state, run = array(SLOTS, heads, P, N), state_space
    channels = 1024
    conv = array(SLOTS, 3, channels, dtype=half), array(tokens, channels, dtype=half), array(channels, 4, dtype=half)
    ints = array(rows, dtype=jnp.int32), array(rows + 1, dtype=jnp.int32), array(rows, dtype=jnp.bool)

    def step(state, remembered, inputs, x, weight, slot, start, starts):  # type: ignore[no-untyped-def]
        x, remembered = causal_conv(
            x, remembered, weight, None, slot, start, starts, decode_only=True, backend="pallas"
        )
        out, state = run(*inputs, state, slot, start, starts, decode_only=tokens == rows)
        return (state, remembered), x, out

    with use_backend("pallas"):
        lowered = jax.jit(step, donate_argnums=(0, 1)).lower(state, conv[0], inputs, *conv[1:], *ints)
    compiled = lowered.compile({"xla_gpu_mock_custom_calls": True})
    text, memory = compiled.as_text(), compiled.memory_analysis()
    size = f"{SLOTS},|{SLOTS * state.size // SLOTS // state.shape[-1]},"
    return {
        "state_bytes": 4 * state.size + 2 * conv[0].size,
        "alias_bytes": memory.alias_size_in_bytes,
        "temp_bytes": memory.temp_size_in_bytes,
        "state_copies": len(re.findall(rf"\w+\[(?:{size})[\d,]*\]\S* copy\(", text)),
        "kernels": len(
            re.findall(r" (?:fusion|custom-call|copy|reduce|sort|scatter|while)\(", text[text.index("ENTRY") :])
        ),
    }


def told(directory: Path) -> list[list[Any]]:
    """[name, registers, bytes of spills] of each compilation of a kernel."""
    log = directory / "log"
    pattern = r"entry function '(\w+_update)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) reg"
    found = re.findall(pattern, log.read_text() if log.exists() else "", re.S)
    return [[name, int(registers), int(stores) + int(loads)] for name, stores, loads, registers in found]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
