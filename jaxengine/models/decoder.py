"""The decoder: token embedding, layers, final norm and head, each as its ModelConfig says.

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
from jaxengine.cache.groups import arrange
from jaxengine.cache.latent import LatentCacheSpec
from jaxengine.cache.spec import Cache, CacheSpec
from jaxengine.layers import embedding
from jaxengine.layers.block import FeedForward, Mixer, StepInputs
from jaxengine.layers.experts import Experts
from jaxengine.layers.gated_delta import DeltaSizes, GatedDeltaNet
from jaxengine.layers.heads import Heads
from jaxengine.layers.latent_attention import LatentAttention
from jaxengine.layers.linear import project
from jaxengine.layers.mamba2 import Mamba2, MambaSizes
from jaxengine.layers.mlp import Mlp
from jaxengine.layers.norm import Norm
from jaxengine.layers.short_conv import ConvSizes, ShortConv
from jaxengine.layers.weight_spec import WeightSpec
from jaxengine.models.config import ModelConfig
from jaxengine.models.layer import Layer
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
        if mixture := self.config.mixture:
            for size, what in ((mixture.mlp_size, "an expert's"), (mixture.shared_size, "the shared experts'")):
                check_divides(tp_size(self.mesh), size, f"{what} mlp size")
        kv_heads_on(tp_size(self.mesh), self.config.num_heads, self.config.num_kv_heads)

    @functools.cached_property
    def layers(self) -> tuple[Layer, ...]:
        return tuple(self._layer(i) for i in range(self.config.num_layers))

    def weight_specs(self) -> dict[str, WeightSpec]:
        """Flat name → array, in the order of the forward pass. V' is the vocabulary padded to the devices."""
        c, dtype = self.config, self.config.dtype
        V, width = padded_to(tp_size(self.mesh), c.vocab_size), c.embed_size or c.hidden_size
        table = WeightSpec((V, width), dtype, ("vocab", "embed"), 0.02)
        specs = {"embed": table}
        if c.embed_size:
            specs["embed_in"] = WeightSpec((c.hidden_size, width), dtype, ("embed", "embed"), width**-0.5)
        if c.position_table:
            specs["positions"] = WeightSpec((c.position_table, c.hidden_size), dtype, (None, "embed"), 0.02)
        specs |= self._norm().weight_specs("embed_norm") if c.embed_norm else {}
        for i, layer in enumerate(self.layers):
            specs |= {f"layers.{i}.{name}": spec for name, spec in layer.weight_specs().items()}
        specs |= self._norm().weight_specs("final_norm") if c.final_norm else {}
        if c.embed_size:
            specs["embed_out"] = WeightSpec((width, c.hidden_size), dtype, ("embed", "embed"), c.hidden_size**-0.5)
        if not c.tie_embeddings:
            specs["head"] = table
        if c.head_bias:
            specs["head_bias"] = WeightSpec((V,), dtype, ("vocab",), 0.02)
        return specs

    def cache_specs(self) -> tuple[CacheSpec, ...]:
        return tuple(layer.mixer.cache_spec() for layer in self.layers if layer.mixer is not None)

    def forward(
        self,
        weights: dict[str, Array],
        kv: tuple[Cache, ...],
        tokens: Array,
        positions: Array,
        rows: PagedRows,
        last: Array | None = None,
    ) -> tuple[Array, tuple[Cache, ...]]:
        """tokens, positions: [T] int32 → hidden [T, E] before the final norm, and the caches with this step written.

        last: [S] int32, each row's last token: hidden is theirs alone, [S, E]. The last layer then writes the keys and
        values of all, and computes the rest for these.
        """
        with jax.named_scope("embed"):
            x = self._embed(weights, tokens, positions)
        with jax.named_scope("rope"):
            angles = self._angles(positions, rows)
        caches, places = list(kv), arrange(self.cache_specs())
        left = iter(zip(places.array, places.group, strict=True))
        for i, layer in enumerate(self.layers):
            wanted = last if i == len(self.layers) - 1 else None
            own = _of_layer(weights, i)
            with jax.named_scope(f"layer_{i}"):
                if layer.mixer is None:
                    x, _ = layer(own, x, StepInputs(None, positions, rows, wanted), None)
                    continue
                array, group = next(left)
                step = StepInputs(angles.get(layer.mixer.rope), positions, rows.of_group(group), wanted)
                x, caches[array] = layer(own, x, step, caches[array])
        return x, tuple(caches)

    def logits(self, weights: dict[str, Array], hidden: Array) -> Array:
        """hidden: [S, E] → [S, V] float32 on every device."""
        c = self.config
        with jax.named_scope("logits"):
            norm = None
            if c.final_norm:
                hidden, norm = self._norm().before(weights, "final_norm", hidden)
            if c.embed_size:
                hidden, norm = project("se,we->sw", hidden, weights["embed_out"], norm=norm), None
            head = weights["embed" if c.tie_embeddings else "head"]
            out = embedding.logits(hidden, norm, head, weights.get("head_bias"), c.vocab_size, self.mesh)
            out = out if c.logits_scale == 1 else out * c.logits_scale
            return out if c.logits_softcap is None else jnp.tanh(out / c.logits_softcap) * c.logits_softcap

    def _embed(self, weights: dict[str, Array], tokens: Array, positions: Array) -> Array:
        """→ [T, E]: what the first layer reads."""
        c = self.config
        x = embedding.embed(tokens, weights["embed"], self.mesh)
        x = x if c.embed_scale == 1 else x * jnp.asarray(c.embed_scale, x.dtype)
        x = project("tw,ew->te", x, weights["embed_in"]) if c.embed_size else x
        if c.position_table:
            x = x + jnp.take(weights["positions"], positions + c.position_offset, axis=0, mode="clip")
        return self._norm()(weights, "embed_norm", x) if c.embed_norm else x

    def _angles(self, positions: Array, rows: PagedRows) -> dict[object, tuple[Array, Array]]:
        """Of each rope that some layer uses."""
        ropes = dict.fromkeys(layer.mixer.rope for layer in self.layers if layer.mixer)
        lengths = _row_lengths(rows) if self.config.depends_on_length else None
        return {rope: rope.angles(positions, lengths) for rope in ropes if rope}

    def _layer(self, i: int) -> Layer:
        c, norm = self.config, self._norm()
        before = c.norm_places in ("pre", "both", "parallel", "shared", "after")
        behind = c.norm_places in ("post", "both")
        mixer = self._mixer(i) if c.mixer(i) else None
        feed_forward = self._feed_forward(i) if not c.feed_forwards or c.feed_forwards[i] else None
        return Layer(
            mixer,
            feed_forward,
            attention_norm=norm if before and mixer else None,
            attention_post_norm=norm if behind and mixer else None,
            mlp_norm=norm if before and feed_forward and c.norm_places != "shared" else None,
            mlp_post_norm=norm if behind and feed_forward else None,
            parallel=c.norm_places in ("parallel", "shared"),
            norms_after=c.norm_places == "after",
            residual_scale=c.residual_scale,
        )

    def _mixer(self, i: int) -> Mixer:
        c = self.config
        if c.mixer(i) == "recurrent":
            return self._recurrence()
        scale = c.head_dim**-0.5 if c.attention_scale is None else c.attention_scale
        if c.latent:
            latents = LatentCacheSpec(c.latent.rank, c.latent.rope_dim, self.page_size, self.cache_dtype)
            return LatentAttention(
                c.latent, c.hidden_size, c.num_heads, latents, c.layer_rope(i), self.mesh, c.dtype, scale, c.o_bias
            )
        kv_heads = kv_heads_on(tp_size(self.mesh), c.num_heads, c.num_kv_heads)
        return Heads(
            c.hidden_size,
            c.num_heads,
            FullCacheSpec(kv_heads, c.head_dim, self.page_size, self.cache_dtype, c.window(i)),
            c.layer_rope(i),
            self.mesh,
            c.dtype,
            scale=scale,
            eps=c.norm_eps,
            norm_dtype=self._norm().dtype,
            softcap=c.attention_softcap,
            qk_norm=c.qk_norm,
            qkv_bias=c.qkv_bias,
            o_bias=c.o_bias,
            sinks=c.sinks,
            clip=c.qkv_clip,
            query_growth=c.query_growth,
            chunk=c.chunks[i] if c.chunks else None,
            gate=c.attention_gate,
        )

    def _recurrence(self) -> Mixer:
        c = self.config
        match c.recurrent:
            case DeltaSizes():
                return GatedDeltaNet(c.recurrent, c.hidden_size, self.mesh, c.dtype, c.norm_eps)
            case MambaSizes():
                return Mamba2(c.recurrent, c.hidden_size, self.mesh, c.dtype, c.norm_eps)
            case ConvSizes():
                return ShortConv(c.recurrent, c.hidden_size, self.mesh, c.dtype)
            case None:
                raise ValueError("the config has recurrent layers, and does not say of which kind")

    def _feed_forward(self, i: int) -> FeedForward:
        c = self.config
        if c.mixture and c.mixture.in_layer(i):
            return Experts(c.mixture, c.hidden_size, self.mesh, c.dtype)
        return Mlp(c.hidden_size, c.mlp_size, c.dtype, c.activation, c.gated, c.mlp_bias)

    def _norm(self) -> Norm:
        c = self.config
        dtype = jnp.dtype(jnp.float32) if c.norm_float32 else c.dtype
        return Norm(c.hidden_size, c.norm_eps, dtype, c.norm, c.norm_weight, c.norm_bias)


def _of_layer(weights: dict[str, Array], i: int) -> dict[str, Array]:
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
