"""Qwen3 in flax nnx, for training: the same mathematics as transformers' Qwen3ForCausalLM.

Called by examples/train_demo_model.py. Parameters are float32, the arithmetic is in `dtype`. B rows, T tokens a row, E
hidden, H query heads, K key heads, D head dim, F mlp, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

AttentionKind = Literal["xla", "cudnn"]


@dataclass(frozen=True)
class Shape:
    """The numbers of config.json."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    head_dim: int = 64
    vocab: int = 4096
    rope_theta: float = 10000.0
    norm_eps: float = 1e-6


DEMO = Shape(hidden=256, layers=4, heads=4, kv_heads=2, mlp=512)
DRAFT = Shape(hidden=128, layers=2, heads=2, kv_heads=1, mlp=128)


def rotate(x: jax.Array, theta: float) -> jax.Array:
    """Rotary embedding at positions 0, 1, …: x [B, T, N, D]. Only distances count, so packed documents share them."""
    half = x.shape[-1] // 2
    frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = jnp.arange(x.shape[1], dtype=jnp.float32)[:, None, None] * frequency  # [T, 1, D/2]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    a, b = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


class Attention(nnx.Module):
    def __init__(self, shape: Shape, dtype: Any, attention: AttentionKind, rngs: nnx.Rngs):
        self.shape, self.attention = shape, attention

        def linear(inputs: int, outputs: int, scale: float = 1.0) -> nnx.Linear:
            init = nnx.initializers.variance_scaling(scale, "fan_in", "normal")
            return nnx.Linear(inputs, outputs, use_bias=False, dtype=dtype, kernel_init=init, rngs=rngs)

        self.q_proj = linear(shape.hidden, shape.heads * shape.head_dim)
        self.k_proj = linear(shape.hidden, shape.kv_heads * shape.head_dim)
        self.v_proj = linear(shape.hidden, shape.kv_heads * shape.head_dim)
        self.o_proj = linear(shape.heads * shape.head_dim, shape.hidden, 0.5 / shape.layers)
        self.q_norm = nnx.RMSNorm(shape.head_dim, epsilon=shape.norm_eps, dtype=dtype, rngs=rngs)
        self.k_norm = nnx.RMSNorm(shape.head_dim, epsilon=shape.norm_eps, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, same: jax.Array) -> jax.Array:
        """x [B, T, E]; same [B, 1, T, T]: whether two tokens are of one document."""
        s = self.shape
        q = self.q_norm(self.q_proj(x).reshape(*x.shape[:2], s.heads, s.head_dim))
        k = self.k_norm(self.k_proj(x).reshape(*x.shape[:2], s.kv_heads, s.head_dim))
        v = self.v_proj(x).reshape(*x.shape[:2], s.kv_heads, s.head_dim)
        q, k = rotate(q, s.rope_theta), rotate(k, s.rope_theta)
        out = jax.nn.dot_product_attention(q, k, v, mask=same, is_causal=True, implementation=self.attention)
        return self.o_proj(out.reshape(*x.shape[:2], -1))


class Mlp(nnx.Module):
    def __init__(self, shape: Shape, dtype: Any, rngs: nnx.Rngs):
        def linear(inputs: int, outputs: int, scale: float = 1.0) -> nnx.Linear:
            init = nnx.initializers.variance_scaling(scale, "fan_in", "normal")
            return nnx.Linear(inputs, outputs, use_bias=False, dtype=dtype, kernel_init=init, rngs=rngs)

        self.gate_proj = linear(shape.hidden, shape.mlp)
        self.up_proj = linear(shape.hidden, shape.mlp)
        self.down_proj = linear(shape.mlp, shape.hidden, 0.5 / shape.layers)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down_proj(nnx.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nnx.Module):
    def __init__(self, shape: Shape, dtype: Any, attention: AttentionKind, rngs: nnx.Rngs):
        self.input_layernorm = nnx.RMSNorm(shape.hidden, epsilon=shape.norm_eps, dtype=dtype, rngs=rngs)
        self.self_attn = Attention(shape, dtype, attention, rngs)
        self.post_attention_layernorm = nnx.RMSNorm(shape.hidden, epsilon=shape.norm_eps, dtype=dtype, rngs=rngs)
        self.mlp = Mlp(shape, dtype, rngs)

    def __call__(self, x: jax.Array, same: jax.Array) -> jax.Array:
        x = x + self.self_attn(self.input_layernorm(x), same)
        return x + self.mlp(self.post_attention_layernorm(x))


class Qwen3(nnx.Module):
    def __init__(self, shape: Shape, rngs: nnx.Rngs, dtype: Any = jnp.float32, attention: AttentionKind = "xla"):
        self.embed_tokens = nnx.Embed(
            shape.vocab, shape.hidden, dtype=dtype, embedding_init=nnx.initializers.normal(0.02), rngs=rngs
        )
        self.layers = nnx.List([Block(shape, dtype, attention, rngs) for _ in range(shape.layers)])
        self.norm = nnx.RMSNorm(shape.hidden, epsilon=shape.norm_eps, dtype=dtype, rngs=rngs)

    def hidden(self, tokens: jax.Array, document: jax.Array) -> jax.Array:
        """tokens, document [B, T] int32 (document: which document of the row a token is of) → [B, T, E]."""
        same = (document[:, :, None] == document[:, None, :])[:, None]
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x, same)
        return self.norm(x)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """[..., E] → [..., V] float32; the embedding is the output matrix too."""
        weight = self.embed_tokens.embedding[...].astype(hidden.dtype)
        return jnp.einsum("...e,ve->...v", hidden, weight, preferred_element_type=jnp.float32)


def _gradient(attention: AttentionKind, dtype: Any) -> jax.Array:
    """All gradients of a small model as one vector [parameters]."""
    shape = Shape(hidden=128, layers=1, heads=2, kv_heads=1, mlp=128, vocab=64)
    tokens = jax.random.randint(jax.random.key(0), (2, 256), 0, shape.vocab)
    document = jnp.cumsum(tokens == 0, axis=1)
    target = jax.random.normal(jax.random.key(1), (2, 256, shape.hidden))

    def loss(model: Qwen3) -> jax.Array:
        return (model.hidden(tokens, document).astype(jnp.float32) * target).mean()

    grads = nnx.jit(nnx.grad(loss))(Qwen3(shape, nnx.Rngs(0), dtype, attention))
    return jnp.concatenate([g.ravel() for g in jax.tree.leaves(grads)])


def pick_attention() -> AttentionKind:
    """cuDNN's fused attention where a small training step through it works and is right, else XLA's."""
    if jax.default_backend() != "gpu":
        return "xla"
    try:
        exact, fused = _gradient("xla", jnp.float32), _gradient("cudnn", jnp.bfloat16)
        error = float(jnp.linalg.norm(fused - exact) / jnp.linalg.norm(exact))
        print(f"cuDNN attention: gradients differ by {error:.2%} from XLA's in float32")
        return "cudnn" if error < 0.05 else "xla"
    except Exception as error:  # whatever a missing or older cuDNN raises
        print(f"no cuDNN attention here ({type(error).__name__}: {str(error)[:200]}): using XLA's")
        return "xla"
