"""Latent attention as a block, against transformers' own modules: in chunks, in half precision, on two devices."""

from __future__ import annotations

import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from models_harness import PAGE, paged_rows

from jaxengine.cache.latent import LatentCacheSpec
from jaxengine.layers.block import StepInputs
from jaxengine.layers.latent_attention import LatentAttention, LatentSizes
from jaxengine.layers.rope import Rope
from jaxengine.sharding import make_mesh, named_sharding
from pallas_kernels.backend import use_backend
from pallas_kernels.latent_attention import tuning

torch = pytest.importorskip("torch")

E, H, T, PAGES = 32, 4, 21, 8
SIZES = {
    "hidden_size": E, "num_attention_heads": H, "num_key_value_heads": H, "kv_lora_rank": 24, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 12, "v_head_dim": 10, "attn_implementation": "eager",
}  # fmt: skip
CASES: dict[str, tuple[str, int | None, bool]] = {
    "v2, no latent of queries": ("deepseek_v2", None, False),
    "v2, biases": ("deepseek_v2", 16, True),
    "v3": ("deepseek_v3", 16, False),
    "v3, biases, no latent of queries": ("deepseek_v3", None, True),
}


def theirs(case: str) -> tuple[Any, np.ndarray, np.ndarray]:
    """A module with random weights, its input [T, E] and its output."""
    family, q_rank, bias = CASES[case]
    prefix = {"deepseek_v2": "DeepseekV2", "deepseek_v3": "DeepseekV3"}[family]
    package = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    config = getattr(transformers, f"{prefix}Config")(**SIZES, q_lora_rank=q_rank, attention_bias=bias)
    torch.manual_seed(0)
    module = getattr(package, f"{prefix}Attention")(config, layer_idx=0).eval()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            wide = torch.randn_like(parameter)
            parameter.copy_(1 + 0.2 * wide if "norm" in name else wide * (0.3 if wide.ndim == 1 else 0.25))
        x = torch.randn(1, T, E)
        angles = getattr(package, f"{prefix}RotaryEmbedding")(config)(x, torch.arange(T)[None])
        mask = torch.full((T, T), -torch.inf).triu(1)[None, None]
        out, _ = module(hidden_states=x, attention_mask=mask, position_embeddings=angles)
    return module, x[0].numpy(), out[0].numpy()


def block(case: str, tp: int, dtype: jnp.dtype) -> LatentAttention:
    cache = LatentCacheSpec(24, 8, PAGE, dtype)
    sizes = LatentSizes(rank=24, nope_dim=12, rope_dim=8, value_dim=10, q_rank=CASES[case][1])
    return LatentAttention(sizes, E, H, cache, Rope(8), make_mesh(tp), dtype, scale=20**-0.5, bias=CASES[case][2])


def weights_of(module: Any, ours: LatentAttention) -> dict[str, jax.Array]:
    """By hand, apart from the recipes that read checkpoints: features that turn go from neighbours to halves."""
    given = {name: parameter.detach().numpy() for name, parameter in module.named_parameters()}
    order = np.array([0, 2, 4, 6, 1, 3, 5, 7])
    down, bias = (given.get(f"kv_a_proj_with_mqa.{kind}") for kind in ("weight", "bias"))
    q = given["q_b_proj.weight" if ours.sizes.q_rank else "q_proj.weight"].reshape(H, 20, -1)
    q = np.concatenate([q[:, :12], q[:, 12:][:, order]], axis=1)
    down, bias = (None if x is None else np.concatenate([x[:24], x[24:][order]]) for x in (down, bias))
    keys_values = given["kv_b_proj.weight"].reshape(H, 22, 24)
    made = {
        "latent_norm": given["kv_a_layernorm.weight"], "k_up": keys_values[:, :12], "v_up": keys_values[:, 12:],
        "o": given["o_proj.weight"], "o_bias": given.get("o_proj.bias"),
    }  # fmt: skip
    if ours.sizes.q_rank:
        made |= {"latents": np.concatenate([given["q_a_proj.weight"], down]), "q_norm": given["q_a_layernorm.weight"]}
        made |= {"q": q, "latents_bias": None if bias is None else np.concatenate([given["q_a_proj.bias"], bias])}
    else:
        devices = ours.mesh.size
        q = q.reshape(devices, -1, E)
        made["q_latents"] = np.stack([np.concatenate([part, down]) for part in q])
        if bias is not None:
            made["q_latents_bias"] = np.stack([np.concatenate([np.zeros(q.shape[1]), bias])] * devices)
    specs = ours.weight_specs()
    assert set(specs) == {name for name, array in made.items() if array is not None}
    return {
        name: jax.device_put(jnp.asarray(made[name], spec.dtype), named_sharding(ours.mesh, spec.axes))
        for name, spec in specs.items()
    }


def run(ours: LatentAttention, weights: dict[str, jax.Array], x: np.ndarray, chunks: tuple[int, ...]) -> np.ndarray:
    """One row's tokens in chunks, the last of which asks for its last token alone."""
    cache = jnp.zeros(ours.cache.shape(PAGES), ours.cache.dtype)
    table = np.random.default_rng(0).permutation(PAGES).reshape(1, PAGES).astype(np.int32)
    found, done = [], 0
    for n, length in enumerate(chunks):
        _, positions, rows = paged_rows([[0] * length], [done], table, PAGES, padded=length + 3)
        last = jnp.array([length - 1]) if n == len(chunks) - 1 else None
        step = StepInputs(ours.rope.angles(jnp.asarray(positions)), jnp.asarray(positions), rows, last)
        padded = jnp.asarray(np.pad(x[done : done + length], ((0, 3), (0, 0))), ours.dtype)
        call = jax.jit(lambda *args: ours(*args))  # traced anew, for the kernels in force
        out, cache = call(weights, padded, None, step, cache, None)
        found.append(np.asarray(out, np.float32)[: length if last is None else 1])
        done += length
    return np.concatenate(found)


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_same_as_transformers(case: str, tp: int) -> None:
    module, x, want = theirs(case)
    ours = block(case, tp, jnp.dtype(jnp.float32))
    got = run(ours, weights_of(module, ours), x, (9, 1, 11))
    np.testing.assert_allclose(got, np.concatenate([want[:10], want[-1:]]), atol=1e-5)


@pytest.mark.parametrize("case", ["v2, no latent of queries", "v3"])
def test_the_kernels_on_two_devices(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With keys and values made for the new tokens of each chunk."""
    monkeypatch.setattr(tuning, "FEW_TOKENS", 0)
    module, x, want = theirs(case)
    ours = block(case, 2, jnp.dtype(jnp.float32))
    with use_backend("latent_attention=pallas"):
        got = run(ours, weights_of(module, ours), x, (9, 11, 1))
    np.testing.assert_allclose(got, np.concatenate([want[:20], want[-1:]]), atol=2e-5)


@pytest.mark.parametrize("case", ["v2, no latent of queries", "v3"])
def test_half_precision(case: str) -> None:
    module, x, want = theirs(case)
    ours = block(case, 1, jnp.dtype(jnp.bfloat16))
    got = run(ours, weights_of(module, ours), x, (T,))
    np.testing.assert_allclose(got[0], want[-1], atol=0.03 * np.abs(want).max())
