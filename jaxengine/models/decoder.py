"""The dense decoder: Llama, Mistral, Qwen2 and Qwen3, switched by ModelConfig.

Layers are unrolled, with one array per layer and weight, each laid out [outputs..., inputs...]. Products are left to
GSPMD, which follows the weights' shardings; attention runs in shard_map over heads. With tensor parallelism a layer
costs two all-reduces (after o and after down), the embedding one, and the logits a gather.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from jaxengine.cache.full import FullCacheSpec, PagedRows
from jaxengine.layers import embedding
from jaxengine.layers.attention import attend
from jaxengine.layers.linear import project
from jaxengine.layers.mlp import gated_mlp
from jaxengine.models.config import ModelConfig
from jaxengine.models.protocol import WeightSpec
from jaxengine.sharding import check_divides, kv_heads_on, padded_to, tp_size


@dataclass(frozen=True)
class Decoder:
    """Implements the Model protocol. K' = kv_heads: the config's, copied where there are fewer than devices."""

    config: ModelConfig
    mesh: Mesh
    page_size: int
    cache_dtype: jnp.dtype

    def __post_init__(self) -> None:
        check_divides(tp_size(self.mesh), self.config.mlp_size, "the model's mlp size")
        kv_heads_on(tp_size(self.mesh), self.config.num_heads, self.config.num_kv_heads)

    @functools.cached_property
    def kv_heads(self) -> int:
        """K': kv heads in the pool, a multiple of the devices."""
        return kv_heads_on(tp_size(self.mesh), self.config.num_heads, self.config.num_kv_heads)

    def weight_specs(self) -> dict[str, WeightSpec]:
        """Flat name → array, in the order of the forward pass. V' is the vocabulary padded to the devices."""
        c, dtype = self.config, self.config.dtype
        K, G, D = self.kv_heads, c.num_heads // self.kv_heads, c.head_dim
        E, F, V = c.hidden_size, c.mlp_size, padded_to(tp_size(self.mesh), c.vocab_size)
        norm = WeightSpec((E,), dtype, ("embed",))
        head_norm = WeightSpec((D,), dtype, ("head_dim",))
        table = WeightSpec((V, E), dtype, ("vocab", "embed"), 0.02)
        output_bias = WeightSpec((E,), dtype, ("embed",), 0.02)
        layer = {
            "attention_norm": norm,
            "qkv": WeightSpec((K, G + 2, D, E), dtype, ("kv_heads", None, "head_dim", "embed"), E**-0.5),
            "qkv_bias": WeightSpec((K, G + 2, D), dtype, ("kv_heads", None, "head_dim"), 0.02) if c.qkv_bias else None,
            "q_norm": head_norm if c.qk_norm else None,
            "k_norm": head_norm if c.qk_norm else None,
            "o": WeightSpec((E, c.num_heads, D), dtype, ("embed", "heads", "head_dim"), (c.num_heads * D) ** -0.5),
            "o_bias": output_bias if c.o_bias else None,
            "mlp_norm": norm,
            "gate_up": WeightSpec((2, F, E), dtype, (None, "mlp", "embed"), E**-0.5),
            "gate_up_bias": WeightSpec((2, F), dtype, (None, "mlp"), 0.02) if c.mlp_bias else None,
            "down": WeightSpec((E, F), dtype, ("embed", "mlp"), F**-0.5),
            "down_bias": output_bias if c.mlp_bias else None,
        }
        specs = {"embed": table}
        specs |= {f"layers.{i}.{name}": spec for i in range(c.num_layers) for name, spec in layer.items() if spec}
        specs["final_norm"] = norm
        if not c.tie_embeddings:
            specs["head"] = table
        return specs

    def cache_specs(self) -> tuple[FullCacheSpec, ...]:
        c = self.config
        return tuple(
            FullCacheSpec(self.kv_heads, c.head_dim, self.page_size, self.cache_dtype, c.window(i))
            for i in range(c.num_layers)
        )

    def forward(
        self,
        weights: dict[str, Array],
        kv: tuple[Array, ...],
        tokens: Array,
        positions: Array,
        rows: PagedRows,
        last: Array | None = None,
    ) -> tuple[Array, tuple[Array, ...]]:
        """tokens, positions: [T] int32 → hidden [T, E] before the final norm, and the pools with this step written.

        last: [S] int32, each row's last token: hidden is theirs alone, [S, E]. The last layer then writes the keys and
        values of all, and computes the rest for these.
        """
        c = self.config
        with jax.named_scope("embed"):
            x = embedding.embed(tokens, weights["embed"], self.mesh)
        with jax.named_scope("rope"):
            angles = c.rope.angles(positions, _row_lengths(rows) if c.rope.depends_on_length else None)
        pools = []
        for i, (cache, pages) in enumerate(zip(self.cache_specs(), kv, strict=True)):
            with jax.named_scope(f"layer_{i}"):
                wanted = last if i == c.num_layers - 1 else None
                x, pages = self._layer(cache, _layer_weights(weights, i), x, angles, pages, rows, wanted)
            pools.append(pages)
        return x, tuple(pools)

    def logits(self, weights: dict[str, Array], hidden: Array) -> Array:
        """hidden: [S, E] → [S, V] float32 on every device."""
        with jax.named_scope("logits"):
            head = weights["embed" if self.config.tie_embeddings else "head"]
            norm = weights["final_norm"], self.config.norm_eps
            return embedding.logits(hidden, norm, head, self.config.vocab_size, self.mesh)

    @functools.partial(jax.jit, static_argnums=(0, 1))  # traced and lowered once for all layers; XLA inlines it
    def _layer(
        self,
        cache: FullCacheSpec,
        layer: dict[str, Array],
        x: Array,  # [T, E]
        angles: tuple[Array, Array],
        pages: Array,
        rows: PagedRows,
        last: Array | None,  # [S]
    ) -> tuple[Array, Array]:
        with jax.named_scope("attention"):
            x, pages = self._attention(layer, x, angles, cache, pages, rows, last)
        with jax.named_scope("mlp"):
            return self._mlp(layer, x), pages

    def _attention(
        self,
        layer: dict[str, Array],
        x: Array,  # [T, E]
        angles: tuple[Array, Array],
        cache: FullCacheSpec,
        pages: Array,
        rows: PagedRows,
        last: Array | None,  # [S]
    ) -> tuple[Array, Array]:
        c = self.config
        norm = layer["attention_norm"], c.norm_eps
        qkv = project("te,kgde->tkgd", x, layer["qkv"], layer.get("qkv_bias"), norm=norm)  # [T, K', G + 2, D]
        norms = (layer["q_norm"], layer["k_norm"]) if c.qk_norm else None
        out, pages = attend(
            qkv, angles, pages, rows, norms=norms, eps=c.norm_eps, cache=cache, mesh=self.mesh, scale=c.head_dim**-0.5,
            last=last,
        )  # fmt: skip
        x = x if last is None else x[last]
        return project("thd,ehd->te", out, layer["o"], layer.get("o_bias"), residual=x), pages

    def _mlp(self, layer: dict[str, Array], x: Array) -> Array:
        c = self.config
        norm = layer["mlp_norm"], c.norm_eps
        biases = layer.get("gate_up_bias"), layer.get("down_bias")
        return gated_mlp(x, norm, layer["gate_up"], layer["down"], c.activation, *biases)


def _layer_weights(weights: dict[str, Array], i: int) -> dict[str, Array]:
    """The weights of layer i by their short names."""
    prefix = f"layers.{i}."
    return {name.removeprefix(prefix): array for name, array in weights.items() if name.startswith(prefix)}


def _row_lengths(rows: PagedRows) -> Array:
    """[T] int32: tokens in each token's row once this step is done."""
    if rows.decode_only:
        return rows.context_len
    token = jnp.arange(rows.write_page.shape[0], dtype=jnp.int32)
    row = jnp.searchsorted(rows.query_start[1:], token, side="right", method="compare_all")
    return jnp.take(rows.context_len, row, mode="clip")
