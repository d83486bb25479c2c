"""Compiles write_latents and head_attention for an H200 on a machine that need not have one; prints JSON.

Run by test_h200_compile.py in a process of its own, see tests/h200.py.
`python -m tests.pallas_kernels.latent_attention.h200_compile DIR` writes ptxas' log to DIR.
"""

import functools
import json
import re
import sys
from pathlib import Path

from tests.h200 import compiler
from tests.pallas_kernels.h200_compile import talkative_ptxas, told

CASES = {  # name: rows, tokens, heads, decode_only, dtype of pages[, features of a head that do not turn, of its value]
    "v2_lite_decode_1": (1, 1, 16, True, "bfloat16"),
    "v2_lite_decode_256": (256, 256, 16, True, "bfloat16"),
    "v2_lite_few_tokens": (8, 48, 16, False, "bfloat16"),
    "v2_lite_mixed_2048": (64, 2048, 16, False, "bfloat16"),
    "v3_decode_32": (32, 32, 128, True, "bfloat16"),
    "v3_mixed_512": (32, 512, 128, False, "bfloat16"),
    "glm_4_7_flash_decode_32": (32, 32, 20, True, "bfloat16", 192, 256),
    "glm_4_7_flash_mixed_512": (32, 512, 20, False, "bfloat16", 192, 256),
    "fp8_decode_32": (32, 32, 16, True, "float8_e4m3fn"),
    "fp8_mixed_512": (32, 512, 16, False, "float8_e4m3fn"),
}
PAGES, PAGE, WIDTH, RANK, ROPE, LAYERS = 2048, 16, 512, 512, 64, 2


def main(directory: Path) -> None:
    mesh = compiler("x", talkative_ptxas(directory))
    import jax

    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # Pallas asks it for the device kind
        found = {name: compile_case(mesh, *case) for name, case in CASES.items()}
    print(json.dumps({"programs": found, "ptxas": told(directory, "latent")}))


def compile_case(  # type: ignore[no-untyped-def]
    mesh, rows: int, tokens: int, heads: int, decode_only: bool, narrow: str, nope: int = 128, value: int = 128
) -> dict:
    import jax
    import jax.numpy as jnp

    from pallas_kernels.latent_attention import head_attention, pages_shape, write_latents

    def step(layers, q, latents, gain, k_up, v_up, cos, sin, page, offset, *rows):  # type: ignore[no-untyped-def]
        done = []
        for pages in layers:
            q_nope, q_rope, pages = write_latents(
                q, latents, (gain, 1e-6), cos, sin, pages, page, offset, heads=heads, nope_dim=nope, backend="pallas"
            )
            out = head_attention(
                q_nope, q_rope, k_up, v_up, pages, page, offset, *rows,
                decode_only=decode_only, scale=0.07, backend="pallas",
            )  # fmt: skip
            q = jnp.tile(out.reshape(tokens, -1), 3)[:, : q.shape[1]]
            done.append(pages)
        return q, tuple(done)

    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    array = functools.partial(jax.ShapeDtypeStruct, sharding=sharding)
    pool = array(pages_shape(PAGES, PAGE, RANK, ROPE), jnp.dtype(narrow))
    shapes = (
        (tokens, heads * (nope + ROPE)), (tokens, RANK + ROPE), (RANK,), (heads, nope, RANK), (heads, value, RANK)
    )  # fmt: skip
    angle = array((tokens, ROPE // 2), jnp.float32)
    ints = [array(s, jnp.int32) for s in ((tokens,), (tokens,), (rows, WIDTH), (rows + 1,), (rows,), ())]
    args = ((pool,) * LAYERS, *(array(shape, jnp.bfloat16) for shape in shapes), angle, angle, *ints)
    compiled = jax.jit(step, donate_argnums=0).lower(*args).compile({"xla_gpu_mock_custom_calls": True})
    text, memory = compiled.as_text(), compiled.memory_analysis()
    width = pool.shape[-1]
    shapes = f"{','.join(map(str, pool.shape))}|{pool.size // width},{width}"
    entry = text[text.index("ENTRY") :]
    return {
        "pool_bytes": LAYERS * pool.size * pool.dtype.itemsize,
        "alias_bytes": memory.alias_size_in_bytes,
        "temp_bytes": memory.temp_size_in_bytes,
        "pool_copies": len(re.findall(rf"\w+\[(?:{shapes})\]\S* copy\(", text)),
        "kernels": len(re.findall(r" (?:fusion|custom-call|copy|reduce|sort|scatter|while)\(", entry)),
        "attention_kernels": sorted(set(re.findall(r"latent_attention_(?:decode|merge|new_tokens|prefill)", text))),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
