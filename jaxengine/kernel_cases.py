"""What `jaxengine bench kernels` times: calls of each op at the sizes of a model's layer. Used by kernel_timing.py."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pallas_kernels.backend import Backend
from pallas_kernels.gated_delta import gated_delta
from pallas_kernels.grouped_matmul import grouped_mlp
from pallas_kernels.gumbel_argmax import gumbel_argmax
from pallas_kernels.latent_attention import latent_attention
from pallas_kernels.latent_attention import pages_shape as latents_shape
from pallas_kernels.matmul import matmul
from pallas_kernels.paged_attention import paged_attention, pages_shape
from pallas_kernels.rope_write import rope_write
from pallas_kernels.state_space import state_space
from pallas_kernels.top_experts import Rule, top_experts
from pallas_kernels.top_k import thresholds

Args = tuple[Any, ...]
OP_NAMES = (
    "paged_attention", "latent_attention", "rope_write", "matmul", "grouped_matmul", "top_experts", "gated_delta",
    "state_space", "top_k", "gumbel_argmax",
)  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """One layer of a model, on one device. The defaults are Llama-3.1-8B's, the experts Qwen3-30B-A3B's, the latents
    DeepSeek's, the recurrences Qwen3-Next's (gated delta) and Nemotron-H-8B's (state space)."""

    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 128
    hidden: int = 4096
    mlp: int = 14336
    vocab: int = 128256
    page_size: int = 16
    dtype: str = "bfloat16"
    experts: int = 128
    experts_per_token: int = 8
    expert_mlp: int = 768
    latent_rank: int = 512
    latent_rope: int = 64
    delta: tuple[int, int, int] = (16, 32, 128)  # key heads, value heads, dimensions of both
    mamba: tuple[int, int, int, int] = (8, 128, 64, 128)  # groups, heads, dimensions of one, state size


@dataclass(frozen=True)
class Case:
    """One call of an op. It cannot take less time than reading and writing `bytes`, or than `flops`."""

    op: str
    what: str
    call: Callable[..., Any]  # (*args, backend=) → anything, whose first leaves may replace the first args
    args: Callable[[], Args]
    bytes: float = 0.0
    flops: float = 0.0
    carried: int = 0  # how many of the results are the first args of the next call: pages written in place


def cases(sizes: Sizes, ops: Sequence[str], tokens: Sequence[int], contexts: Sequence[int]) -> Iterator[Case]:
    """The calls of each op: by the tokens of a step, attention by rows and context as well."""
    for op in ops:
        for count in tokens:
            if op in _ATTENTION:
                for context in contexts:
                    yield _ATTENTION[op](sizes, rows=count, new=1, context=context)
                yield _ATTENTION[op](sizes, rows=1, new=count, context=count)
            else:
                yield from _CASES[op](sizes, count)


def _attention(sizes: Sizes, *, rows: int, new: int, context: int) -> Case:
    """`rows` rows with `new` tokens each, the last of `context`."""
    s, dtype = sizes, jnp.dtype(sizes.dtype)

    def args() -> Args:
        table = _paged_rows(s, rows, new, context)
        pages = jax.random.normal(jax.random.key(0), pages_shape(table[0].size, s.page_size, s.kv_heads, s.head_dim))
        q = jax.random.normal(jax.random.key(1), (rows * new, s.heads, s.head_dim)).astype(dtype)
        return (q, pages.astype(dtype), *table)

    return Case(
        "paged_attention",
        f"{rows} x {context}" if new == 1 else f"{new} new of {context}",
        functools.partial(paged_attention, decode_only=new == 1, scale=s.head_dim**-0.5),
        args,
        bytes=2 * rows * context * s.kv_heads * s.head_dim * dtype.itemsize,
        flops=0 if new == 1 else 4 * _seen(rows, new, context) * s.heads * s.head_dim,
    )


def _latent_attention(sizes: Sizes, *, rows: int, new: int, context: int) -> Case:
    """The same over latents, with as many heads."""
    s, dtype = sizes, jnp.dtype(sizes.dtype)
    R, Dr = s.latent_rank, s.latent_rope

    def args() -> Args:
        table = _paged_rows(s, rows, new, context)
        pages = jax.random.normal(jax.random.key(0), latents_shape(table[0].size, s.page_size, R, Dr)).astype(dtype)
        q, q_rope = (jax.random.normal(jax.random.key(n), (rows * new, s.heads, n)).astype(dtype) for n in (R, Dr))
        return (q, q_rope, pages, *table)

    return Case(
        "latent_attention",
        f"{rows} x {context}" if new == 1 else f"{new} new of {context}",
        functools.partial(latent_attention, decode_only=new == 1, scale=(R + Dr) ** -0.5),
        args,
        bytes=rows * context * (R + Dr) * dtype.itemsize,
        flops=2 * _seen(rows, new, context) * s.heads * (2 * R + Dr),
    )


def _paged_rows(sizes: Sizes, rows: int, new: int, context: int) -> tuple[Array, ...]:
    """Page table, starts of rows, lengths of contexts and number of rows that decode."""
    width = -(-context // sizes.page_size)
    table = np.random.default_rng(0).permutation(rows * width).reshape(rows, width)
    ints = table, np.arange(rows + 1) * new, np.full(rows, context), rows if new == 1 else 0
    return tuple(jnp.asarray(x, jnp.int32) for x in ints)


def _seen(rows: int, new: int, context: int) -> float:
    """Pairs of a query and a key."""
    return rows * (new * (context - new) + new * (new + 1) / 2)


def _rope_write(sizes: Sizes, tokens: int) -> Iterator[Case]:
    s, dtype = sizes, jnp.dtype(sizes.dtype)
    pages = 4 * -(-tokens // s.page_size)
    shape = (tokens, s.kv_heads, s.heads // s.kv_heads + 2, s.head_dim)

    def args() -> Args:
        place = jnp.asarray(np.random.default_rng(0).permutation(pages * s.page_size)[:tokens], jnp.int32)
        angles = jnp.ones((tokens, s.head_dim // 2), jnp.float32)
        pool = jnp.zeros(pages_shape(pages, s.page_size, s.kv_heads, s.head_dim), dtype)
        return pool, jnp.ones(shape, dtype), angles, place // s.page_size, place % s.page_size

    def call(pool: Array, qkv: Array, angles: Array, page: Array, offset: Array, *, backend: Backend) -> Any:
        queries, pool = rope_write(qkv, angles, angles, pool, page, offset, backend=backend)
        return pool, queries

    moved = 2 * np.prod(shape) * dtype.itemsize
    yield Case("rope_write", f"{tokens} tokens", call, args, bytes=float(moved), carried=1)


def _products(sizes: Sizes, tokens: int) -> Iterator[Case]:
    """A layer's products with what stands before and behind them, and the head's."""
    s, dtype = sizes, jnp.dtype(sizes.dtype)
    shapes = {  # outputs, inputs, whether they follow a norm, whether they are added to what was
        "qkv": ((s.heads + 2 * s.kv_heads) * s.head_dim, s.hidden, True, False),
        "o": (s.hidden, s.heads * s.head_dim, False, True),
        "gate_up": (s.mlp, s.hidden, True, False),
        "down": (s.hidden, s.mlp, False, True),
        "head": (s.vocab, s.hidden, True, False),
    }
    for name, (outputs, inputs, normed, added) in shapes.items():
        gated = name == "gate_up"
        weight_shape = (2, outputs, inputs) if gated else (outputs, inputs)

        def args(
            outputs: int = outputs, inputs: int = inputs, added: bool = added, shape: tuple[int, ...] = weight_shape
        ) -> Args:
            residual = jnp.ones((tokens, outputs), dtype) if added else None
            return jnp.ones((tokens, inputs), dtype), jnp.full(shape, 0.01, dtype), jnp.ones(inputs, dtype), residual

        def call(
            x: Array, weight: Array, gains: Array, residual: Array | None, *, backend: Backend,
            normed: bool = normed, gated: bool = gated,
        ) -> Array:  # fmt: skip
            norm = (gains, 1e-6) if normed else None
            activation = "silu" if gated else None
            return matmul(x, weight, norm=norm, activation=activation, residual=residual, backend=backend)

        values = np.prod(weight_shape)
        moved = float(values + tokens * (outputs * (1 + added) + inputs)) * dtype.itemsize
        yield Case("matmul", f"{name}, {tokens} tokens", call, args, moved, 2.0 * tokens * float(values))


def _experts(sizes: Sizes, tokens: int) -> Iterator[Case]:
    """Each token through experts drawn evenly; those that nobody drew need not be read."""
    s, dtype = sizes, jnp.dtype(sizes.dtype)
    rng = np.random.default_rng(0)
    drawn = rng.random((tokens, s.experts)).argsort(axis=1)[:, : s.experts_per_token]

    def args() -> Args:
        weights = jnp.full(drawn.shape, 1 / s.experts_per_token, jnp.float32)
        gate_up = jnp.full((s.experts, 2, s.expert_mlp, s.hidden), 0.01, dtype)
        down = jnp.full((s.experts, s.hidden, s.expert_mlp), 0.01, dtype)
        return jnp.ones((tokens, s.hidden), dtype), jnp.asarray(drawn, jnp.int32), weights, gate_up, down

    values = 3.0 * s.expert_mlp * s.hidden  # of an expert
    moved = (len(np.unique(drawn)) * values + 2 * tokens * s.hidden) * dtype.itemsize
    yield Case("grouped_matmul", f"{tokens} tokens", grouped_mlp, args, moved, 2.0 * drawn.size * values)


def _router(sizes: Sizes, tokens: int) -> Iterator[Case]:
    def args() -> Args:
        return (jax.random.normal(jax.random.key(0), (tokens, sizes.experts)).astype(sizes.dtype),)

    def call(logits: Array, *, backend: Backend) -> tuple[Array, Array]:
        return top_experts(logits, None, Rule(sizes.experts_per_token, renormalise=True), backend=backend)

    moved = tokens * (sizes.experts * jnp.dtype(sizes.dtype).itemsize + 8 * sizes.experts_per_token)
    yield Case("top_experts", f"{tokens} tokens", call, args, bytes=float(moved))


def _sampling(op: str, sizes: Sizes, rows: int) -> Iterator[Case]:
    def args() -> Args:
        logits = 5 * jax.random.normal(jax.random.key(0), (rows, sizes.vocab), jnp.float32)
        return logits, jnp.full(rows, 0.7), jnp.full(rows, 20, jnp.int32), jnp.full(rows, 0.95), jnp.zeros(rows)

    def draw(logits: Array, temperature: Array, *rest: Array, backend: Backend) -> Array:
        place = jnp.arange(rows, dtype=jnp.int32)
        return gumbel_argmax(logits, temperature, None, place, place, backend=backend)

    call = thresholds if op == "top_k" else draw
    yield Case(op, f"{rows} rows", call, args, bytes=4.0 * rows * sizes.vocab)


def _recurrence(op: str, sizes: Sizes, tokens: int) -> Iterator[Case]:
    """A token of each of so many rows, and one row of so many tokens. States are what a step must read and write."""
    (keys, values, D), (groups, heads, P, N) = sizes.delta, sizes.mamba
    mixed, state = {
        "gated_delta": ((keys, 2 * D + values // keys * D), (values, D, D)),
        "state_space": ((groups, heads // groups * P + 2 * N), (heads, P, N)),
    }[op]

    for rows in (tokens, 1)[: 1 + (tokens > 1)]:

        def args(rows: int = rows) -> Args:
            inputs = jax.random.normal(jax.random.key(0), (tokens, *mixed)).astype(sizes.dtype)
            of_head = jax.nn.sigmoid(jax.random.normal(jax.random.key(1), (tokens, state[0])))
            start = jnp.arange(rows + 1, dtype=jnp.int32) * (tokens // rows)
            return jnp.zeros((rows + 1, *state)), inputs, of_head, jnp.arange(rows, dtype=jnp.int32), start

        def call(states: Array, inputs: Array, of_head: Array, slot: Array, start: Array, *, backend: Backend) -> Any:
            where = states, slot, start, jnp.zeros(slot.shape, bool)
            decode_only = slot.shape[0] == tokens
            if op == "gated_delta":
                out, states = gated_delta(inputs, -of_head, of_head, *where, decode_only=decode_only, backend=backend)
            else:
                ones = jnp.ones(heads)
                out, states = state_space(
                    inputs, of_head, -ones, ones, *where, decode_only=decode_only, backend=backend
                )
            return states, out

        moved = 2 * 4.0 * rows * np.prod(state) + tokens * np.prod(mixed) * jnp.dtype(sizes.dtype).itemsize
        yield Case(op, f"{rows} x {tokens // rows}", call, args, bytes=float(moved), carried=1)


_ATTENTION: dict[str, Callable[..., Case]] = {"paged_attention": _attention, "latent_attention": _latent_attention}
_CASES: dict[str, Callable[[Sizes, int], Iterator[Case]]] = {
    "rope_write": _rope_write,
    "matmul": _products,
    "grouped_matmul": _experts,
    "top_experts": _router,
    "gated_delta": functools.partial(_recurrence, "gated_delta"),
    "state_space": functools.partial(_recurrence, "state_space"),
    "top_k": functools.partial(_sampling, "top_k"),
    "gumbel_argmax": functools.partial(_sampling, "gumbel_argmax"),
}
