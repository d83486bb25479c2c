"""Compiles whole steps for an H200 on a machine that need not have one, and prints JSON about them.

Run by test_h200_step.py in a process of its own, see tests/h200.py. Published sizes, three layers of them.
"""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.h200 import compiler

LAYERS = 3
LLAMA = {"hidden_size": 4096, "num_heads": 32, "num_kv_heads": 8, "mlp_size": 14336, "qk_norm": ""}
QWEN = {"hidden_size": 1024, "num_heads": 16, "num_kv_heads": 8, "mlp_size": 3072, "qk_norm": "head"}


def qwen3_30b() -> dict[str, Any]:
    from jaxengine.layers.experts import Mixture
    from jaxengine.layers.router import Router

    mixture = Mixture(Router(128, 8, renormalise=True), 768)
    sizes = {"hidden_size": 2048, "num_heads": 32, "num_kv_heads": 4, "mlp_size": 6144, "qk_norm": "head"}
    return sizes | {"mixture": mixture}


def deepseek_v2_lite() -> dict[str, Any]:
    from jaxengine.layers.experts import Mixture
    from jaxengine.layers.latent_attention import LatentSizes
    from jaxengine.layers.rope import Rope
    from jaxengine.layers.router import Router

    mixture = Mixture(Router(64, 6, float32=True), 1408, shared_size=2816, layers=(False,) + (True,) * (LAYERS - 1))
    return {
        "hidden_size": 2048, "num_heads": 16, "num_kv_heads": 16, "head_dim": 64, "rope": Rope(64), "mlp_size": 10944,
        "latent": LatentSizes(rank=512, nope_dim=128, rope_dim=64, value_dim=128), "mixture": mixture,
    }  # fmt: skip


CASES: dict[str, tuple[Any, ...]] = {  # model, tokens, decode only[, pages of eight bits[, steps at once]]
    "llama_8b_decode_1": (LLAMA, 1, True),
    "llama_8b_decode_32": (LLAMA, 32, True),
    "llama_8b_decode_256": (LLAMA, 256, True),
    "llama_8b_mixed_2048": (LLAMA, 2048, False),
    "llama_8b_decode_32_fp8": (LLAMA, 32, True, True),
    "llama_8b_mixed_2048_fp8": (LLAMA, 2048, False, True),
    "qwen3_0.6b_decode_1": (QWEN, 1, True),
    "qwen3_0.6b_decode_256": (QWEN, 256, True),
    "qwen3_0.6b_decode_1_four_steps": (QWEN, 1, True, False, 4),
    "qwen3_0.6b_decode_8_four_steps": (QWEN, 8, True, False, 4),
    "qwen3_30b_decode_1": (qwen3_30b, 1, True),
    "qwen3_30b_decode_32": (qwen3_30b, 32, True),
    "qwen3_30b_decode_256": (qwen3_30b, 256, True),
    "qwen3_30b_mixed_2048": (qwen3_30b, 2048, False),
    "deepseek_v2_lite_decode_1": (deepseek_v2_lite, 1, True),
    "deepseek_v2_lite_decode_256": (deepseek_v2_lite, 256, True),
    "deepseek_v2_lite_mixed_2048": (deepseek_v2_lite, 2048, False),
}
KERNEL = r"= .*? (?:fusion|custom-call|copy|reduce|sort|scatter|while|conditional|broadcast|memset)\("


def main() -> None:
    mesh = compiler("tp")
    import jax

    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # Pallas asks it for the device kind
        made = {name: compile_step(mesh, *case) for name, case in CASES.items()}
    print(json.dumps(made | {"concatenated": concatenated_weights(mesh)}))


def concatenated_weights(mesh: Any) -> list[int]:
    """Of three products that share their tokens: weights that XLA concatenates as it likes, and as we compile it."""
    import jax
    import jax.numpy as jnp

    from jaxengine.buckets import Bucket
    from jaxengine.programs import Program, compiler_options
    from jaxengine.sharding import replicated

    def products(x: jax.Array, weights: list[jax.Array]) -> list[jax.Array]:
        return [jnp.einsum("te,fe->tf", x, weight) for weight in weights]

    def array(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=replicated(mesh))

    lowered = jax.jit(products).lower(array(256, 4096), [array(size, 4096) for size in (4096, 1024, 1024)])
    ours = compiler_options(Program(Bucket(256, 256, True)), "gpu", None)
    theirs = {name: value for name, value in ours.items() if name != "xla_gpu_dot_merger_threshold_mb"}
    return [len(re.findall(r"concatenate\(", lowered.compile(options).as_text())) for options in (theirs, ours)]


def compile_step(
    mesh: Any,
    sizes: dict[str, Any] | Callable[[], dict[str, Any]],
    tokens: int,
    decode_only: bool,
    narrow: bool = False,
    num_steps: int = 1,
) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxengine.batch import Layout
    from jaxengine.buckets import Bucket
    from jaxengine.layers.rope import Rope
    from jaxengine.models import abstract_weights, build_model
    from jaxengine.models.config import ModelConfig
    from jaxengine.programs import Program, compiler_options
    from jaxengine.sharding import replicated
    from jaxengine.state import StateShape, abstract_state, device_bytes
    from jaxengine.step import StepOptions, step

    config = ModelConfig(**{
        "architecture": "LlamaForCausalLM", "vocab_size": 32000, "num_layers": LAYERS, "head_dim": 128,
        "rope": Rope(128), "max_position_embeddings": 8192, "dtype": jnp.dtype(jnp.bfloat16),
    } | (sizes() if callable(sizes) else sizes))  # fmt: skip
    model = build_model(config, mesh, page_size=16, cache_dtype=jnp.dtype(jnp.float8_e4m3fn) if narrow else None)
    bucket = Bucket(tokens, min(tokens, 256), decode_only)
    layout = Layout(bucket, 16, scratch_slot=256)
    state = abstract_state(model, StateShape(num_pages=4096, slots=256, pages_per_row=512))
    packed = jax.ShapeDtypeStruct((layout.size,), np.int32, sharding=replicated(mesh))
    run = functools.partial(step, model, StepOptions(0, "raw_logprobs"), layout, False, num_steps)
    lowered = jax.jit(run, donate_argnums=1).lower(abstract_weights(model), state, packed)
    options = compiler_options(Program(bucket, num_steps=num_steps), "gpu", None)
    compiled = lowered.compile({"xla_gpu_mock_custom_calls": True, **options})
    text, memory = compiled.as_text(), compiled.memory_analysis()
    computations = [re.findall(rf".*{KERNEL}.*", computation) for computation in text.split("\n\n")]
    kernels = max(computations, key=len)  # the program's own, or the body of its loop over steps
    layers = Counter(found[1] for line in kernels if (found := re.search(r"layer_(\d+)", line)))
    pool, width = state.kv[0], state.kv[0].shape[-1]
    copies = re.findall(
        rf"(?:bf16|f8e4m3fn)\[(?:{','.join(map(str, pool.shape))}|{pool.size // width},{width})\]\S* copy\(", text
    )
    return {
        "kernels_of_a_layer": layers["1"],
        "kernels_of_no_layer": len(kernels) - layers.total(),
        "state_bytes": device_bytes(state),
        "alias_bytes": memory.alias_size_in_bytes,
        "pool_copies": len(copies),
        "weight_copies": len(re.findall(r"(?:transpose|concatenate|copy)[\w.]* = .*\(%weights__", text)),
    }


if __name__ == "__main__":
    main()
