"""Multi-head latent attention (arXiv:2405.04434, §2.1) as a mixer: one latent a token stands for all heads' keys and
values.

Made by models/decoder.py. Heads are split over the devices; each of them writes and holds every latent.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxengine.cache.full import PagedRows
from jaxengine.cache.latent import LatentCacheSpec
from jaxengine.layers.block import StepInputs
from jaxengine.layers.linear import project
from jaxengine.layers.norm import FusedNorm
from jaxengine.layers.rope import Rope
from jaxengine.layers.weight_spec import WeightSpec
from jaxengine.sharding import TP, tp_size
from pallas_kernels.latent_attention import head_attention, write_latents


@dataclass(frozen=True)
class LatentSizes:
    """Features of a head and of what heads share."""

    rank: int  # R: of the latent that keys and values are made from
    nope_dim: int  # Dn: of a head's query and key that do not turn
    rope_dim: int  # Dr: of those that turn; the key's are shared by all heads
    value_dim: int  # Dv
    q_rank: int | None = None  # Rq: of the latent that queries are made from; None: they are made from x
    eps: float = 1e-6  # of the norms of both latents


@dataclass(frozen=True)
class LatentAttention:
    """H heads over latents in pages."""

    sizes: LatentSizes
    hidden_size: int
    num_heads: int
    cache: LatentCacheSpec
    rope: Rope
    mesh: Mesh
    dtype: jnp.dtype
    scale: float
    bias: bool = False  # of the products that make latents, and of the output

    def cache_spec(self) -> LatentCacheSpec:
        return self.cache

    def weight_specs(self) -> dict[str, WeightSpec]:
        s, E, H, dtype = self.sizes, self.hidden_size, self.num_heads, self.dtype
        head, own = s.nope_dim + s.rope_dim, s.rank + s.rope_dim
        heads = ("heads", None, None)
        if s.q_rank:  # one product makes both latents, one more the queries
            down = (s.q_rank + own,)
            specs = {
                "latents": WeightSpec((*down, E), dtype, (None, "embed"), E**-0.5),
                "latents_bias": WeightSpec(down, dtype, (None,), 0.02) if self.bias else None,
                "q_norm": WeightSpec((s.q_rank,), dtype, (None,)),
                "q": WeightSpec((H, head, s.q_rank), dtype, heads, s.q_rank**-0.5),
            }
        else:  # one product makes a device's queries and, on each device again, the latents
            both = (tp_size(self.mesh), self._heads * head + own)
            specs = {
                "q_latents": WeightSpec((*both, E), dtype, ("heads", None, "embed"), E**-0.5),
                "q_latents_bias": WeightSpec(both, dtype, ("heads", None), 0.02) if self.bias else None,
            }
        specs |= {
            "latent_norm": WeightSpec((s.rank,), dtype, (None,)),
            "k_up": WeightSpec((H, s.nope_dim, s.rank), dtype, heads, s.nope_dim**-0.5),
            "v_up": WeightSpec((H, s.value_dim, s.rank), dtype, heads, s.rank**-0.5),
            "o": WeightSpec((E, H * s.value_dim), dtype, ("embed", "heads"), (H * s.value_dim) ** -0.5),
            "o_bias": WeightSpec((E,), dtype, ("embed",), 0.02) if self.bias else None,
        }
        return {name: spec for name, spec in specs.items() if spec}

    @property
    def _heads(self) -> int:
        """Heads of one device."""
        return self.num_heads // tp_size(self.mesh)

    def __call__(
        self,
        weights: dict[str, Array],
        x: Array,  # [T, E]
        norm: FusedNorm | None,
        step: StepInputs,
        cache: Array,
        residual: Array | None,
    ) -> tuple[Array, Array]:
        """See Mixer."""
        latents = None
        if s := self.sizes.q_rank:
            latents = project("te,re->tr", x, weights["latents"], weights.get("latents_bias"), norm=norm)
            q = project("te,hde->thd", latents[:, :s], weights["q"], norm=(weights["q_norm"], self.sizes.eps))
        else:
            q = project("te,nde->tnd", x, weights["q_latents"], weights.get("q_latents_bias"), norm=norm)
        assert step.angles is not None
        on_device = jax.shard_map(
            self._on_device,
            mesh=self.mesh,
            in_specs=(P(None, TP), P(), P(), P(TP), P(TP), P(), P(), P(), P()),
            out_specs=(P(None, TP), P()),
            check_vma=False,  # kernels do not say how their results vary over the mesh
        )
        out, cache = on_device(
            q, latents, weights["latent_norm"], weights["k_up"], weights["v_up"], step.angles, cache, step.rows,
            step.last,
        )  # fmt: skip
        return project("tf,ef->te", out, weights["o"], weights.get("o_bias"), residual=residual), cache

    def _on_device(
        self,
        q: Array,  # [T, H, Dn + Dr], or [T, 1, ...] of all heads one behind another and, at the end, the latents
        latents: Array | None,  # [T, Rq + R + Dr], where those are for themselves
        norm: Array,  # [R]
        k_up: Array,  # [H, Dn, R]
        v_up: Array,  # [H, Dv, R]
        angles: tuple[Array, Array],  # each [T, Dr/2]
        pages: Array,
        rows: PagedRows,
        last: Array | None,  # [S]
    ) -> tuple[Array, Array]:
        """→ what this device's heads find, [T, H·Dv] or, of the last tokens, [S, H·Dv]; and the pages."""
        s, H = self.sizes, self._heads
        q = q.reshape(q.shape[0], -1)
        q, q_rope, pages = write_latents(
            q, q if latents is None else latents, (norm, s.eps), *angles, pages, rows.write_page, rows.write_offset,
            heads=H, nope_dim=s.nope_dim,
        )  # fmt: skip
        places = rows.write_page, rows.write_offset
        if last is not None:
            q, q_rope, rows = q[last], q_rope[last], rows.of_last_tokens()
            places = rows.write_page[last], rows.write_offset[last]
        found = head_attention(
            q, q_rope, k_up, v_up, pages, *places, rows.page_table, rows.query_start, rows.context_len,
            rows.num_decode, decode_only=rows.decode_only, scale=self.scale,
        )  # fmt: skip
        return found.reshape(len(found), -1), pages  # flat: XLA would rather transpose the next weight than this
