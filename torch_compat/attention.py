"""Our paged attention under transformers' attention interface.

Modules call `attend` with this step's queries, keys and values; `Step`, found through a context variable because many
models hand no extra arguments down to their attention, gives it the layer's pages. Without pages (`Probe`) the same
call only says what the layer will need, so that nothing is guessed from names in a config.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from transformers import AttentionInterface, AttentionMaskInterface

from jaxengine.cache.full import FullCacheSpec, PagedRows
from jaxengine.cache.groups import arrange
from jaxengine.cache.spec import Cache, CacheSpec
from jaxengine.models import UnsupportedModel
from jaxengine.sharding import TP, kv_heads_on, tp_size
from pallas_kernels.paged_attention import paged_attention
from pallas_kernels.rope_write import rope_write
from torch_compat._torchax import jax_view, torch, torch_view
from torch_compat.masks import Mask
from torch_compat.origins import Origins, noting
from torch_compat.rotation import Before, before

NAME = "jaxengine"  # of our functions in transformers' registries
HEAD_DIM_MULTIPLE = 16  # heads are padded to it in pages


@dataclass(frozen=True)
class Call:
    """One attention call of the model, as a probe sees it. K kv heads; D: the larger of keys' and values' head dim."""

    num_heads: int
    kv_heads: int
    head_dim: int
    window: int | None
    chunk: int | None = None  # of the context that its tokens see
    scale: float = 1.0
    softcap: float | None = None


@dataclass
class Probe:
    """Notes what each layer keeps, in the order in which the model asks."""

    mesh: Mesh
    positions: Array  # [T]
    notes: list[Any] = field(default_factory=list)

    def attend(self, q: Array, k: Array, v: Array, score: Scores, rotated: Before | None = None) -> Array:
        """See Step.attend."""
        size = max(k.shape[-1], v.shape[-1]) + (0 if score.slopes is None else SLOPE_DIMS)
        padded = -(-size // HEAD_DIM_MULTIPLE) * HEAD_DIM_MULTIPLE
        self.notes.append(Call(q.shape[1], k.shape[1], padded, score.window, score.chunk, score.scale, score.softcap))
        seen = q.sum() + 2 * k.sum() + 3 * v.sum()  # so that a trace tells what attends to what
        for weight, array in ((4, score.sinks), (5, score.slopes)):
            seen = seen if array is None else seen + weight * array.sum()
        return jnp.broadcast_to(seen, (*q.shape[:2], v.shape[-1])).astype(q.dtype)


@dataclass(frozen=True)
class Scores:
    """How a query scores a key, as the module says it."""

    scale: float
    window: int | None = None
    softcap: float | None = None
    sinks: Array | None = None  # [H]
    chunk: int | None = None  # the context is cut every so many tokens: we only note it, and end contexts there
    slopes: Array | None = None  # [H]: a key at position j scores slope · j more (ALiBi, up to what is equal in a row)


Place = tuple[int, CacheSpec, int]  # of a layer's cache: its array, its spec, its group of page numbers


def places_of(specs: tuple[CacheSpec, ...]) -> tuple[Place, ...]:
    """The places of all layers."""
    arrangement = arrange(specs)
    return tuple(zip(arrangement.array, specs, arrangement.group, strict=True))


@dataclass
class Step:
    """One step under way: the layers' caches, taken in the order in which the model asks for them."""

    places: tuple[Place, ...]
    caches: list[Cache]  # as groups.py arranges them
    positions: Array  # [T]
    rows: PagedRows
    mesh: Mesh
    layer: int = 0

    def next_layer(self) -> tuple[int, CacheSpec, PagedRows]:
        """Of the next layer: the place of its cache, its spec, and the rows as it sees them."""
        array, spec, group = self.places[self.layer]
        self.layer += 1
        return array, spec, self.rows.of_group(group)

    def attend(self, q: Array, k: Array, v: Array, score: Scores, rotated: Before | None = None) -> Array:
        """q: [T, H, Dk], k: [T, K, Dk], v: [T, K, Dv] → [T, H, Dv]. The layer's pages get the keys and values.

        rotated: what q and k were before. Where heads lie in pages as they are, our kernel rotates them instead.
        """
        i, spec, rows = self.next_layer()
        assert isinstance(spec, FullCacheSpec)
        if q.shape[-1] != spec.head_dim or k.shape[-1] != spec.head_dim:
            rotated = None
        if rotated is not None:
            q, k = rotated.q, rotated.k
        if score.slopes is not None:
            q, k = _with_slopes(q, k, score, self.positions)
        copies = spec.kv_heads // k.shape[1]
        padded = [_padded(x, spec.head_dim) for x in (q, _copied(k, copies), _copied(v, copies))]
        qkv = padded[0], padded[1], padded[2]
        out, self.caches[i] = _attend(qkv, self.caches[i], rows, score, spec, self.mesh, rotated)
        return out[..., : v.shape[-1]]


HARMLESS = ("position_ids", "cache_position", "cu_seq_lens_q", "cu_seq_lens_k")  # of what modules hand on
SLOPE_DIMS = 2  # of a head that carry the position of a key
_current: ContextVar[Step | Probe] = ContextVar("torch_step")


@contextlib.contextmanager
def serving(step: Step | Probe) -> Iterator[None]:
    """Attention calls inside the block are this step's."""
    token = _current.set(step)
    try:
        with noting(Origins(step.mesh.size == 1) if isinstance(step, Step) else None):
            yield
    finally:
        _current.reset(token)


def current() -> Step | Probe:
    """The step that is being traced."""
    return _current.get()


def attend(
    module: Any,
    query: Any,  # [1, H, T, Dk]
    key: Any,  # [1, K, T, Dk]
    value: Any,  # [1, K, T, Dv]
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Any = None,
    **others: Any,
) -> tuple[Any, None]:
    """transformers' attention interface → [1, T, H, Dv]. Raises UnsupportedModel for what our kernels do not mean."""
    name = type(module).__name__
    if query.shape[0] != 1 or key.shape[2] != query.shape[2]:
        raise UnsupportedModel(
            f"{name} attends {tuple(query.shape)} queries to {tuple(key.shape)} keys of other tokens."
        )
    if odd := [key for key, value in others.items() if isinstance(value, torch.Tensor) and key not in HARMLESS]:
        raise UnsupportedModel(f"{name} attends with {', '.join(odd)}, which our kernels do not know.")
    chunk = None
    if isinstance(attention_mask, Mask):
        if attention_mask.problem:
            raise UnsupportedModel(f"{name}: a mask of {attention_mask.problem} is not served.")
        sliding_window, chunk = attention_mask.window or sliding_window, attention_mask.chunk
    elif attention_mask is not None:
        raise UnsupportedModel(f"{name} adds a mask or bias of its own to its scores.")
    elif not others.get("is_causal", getattr(module, "is_causal", True)):
        raise UnsupportedModel(f"{name} attends to later tokens.")
    q, k, v = (jax_view(x)[0].swapaxes(0, 1) for x in (query, key, value))
    scale = q.shape[-1] ** -0.5 if scaling is None else float(scaling)
    sinks = None if s_aux is None else jax_view(s_aux).reshape(-1).astype(jnp.float32)
    score = Scores(scale, sliding_window or None, softcap or None, sinks, chunk)
    out = current().attend(q, k, v, score, before(jax_view(query), jax_view(key)))
    return torch_view(out[None]), None


def cache_spec(call: Call, mesh: Mesh, page_size: int, dtype: jnp.dtype) -> FullCacheSpec:
    """What an attention layer keeps. Raises ShardingError where its heads cannot be split over the mesh."""
    kv_heads = kv_heads_on(tp_size(mesh), call.num_heads, call.kv_heads)
    return FullCacheSpec(kv_heads, call.head_dim, page_size, dtype, call.window)


def _attend(
    qkv: tuple[Array, Array, Array],  # [T, H, D], [T, K, D], [T, K, D]
    pages: Array,
    rows: PagedRows,
    score: Scores,
    spec: FullCacheSpec,
    mesh: Mesh,
    rotated: Before | None,
) -> tuple[Array, Array]:
    heads = P(None, TP)
    T, half = len(qkv[0]), spec.head_dim // 2
    angles = jnp.ones((T, half), jnp.float32), jnp.zeros((T, half), jnp.float32)  # of heads that are rotated already
    norms, eps = None, 0.0
    if rotated is not None:
        angles, norms, eps = rotated.angles, rotated.norms, rotated.eps

    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(heads, heads, heads, P(), P(), spec.partition_spec, P(), P(TP)),
        out_specs=(heads, spec.partition_spec),
        check_vma=False,  # kernels do not say how their results vary over the mesh
    )
    def on_device(
        q: Array,
        k: Array,
        v: Array,
        angles: tuple[Array, Array],
        norms: tuple[Array, Array] | None,
        pages: Array,
        rows: PagedRows,
        sinks: Array | None,
    ) -> tuple[Array, Array]:
        (T, _, D), K = q.shape, k.shape[1]
        qkv = jnp.concatenate([q.reshape(T, K, -1, D), k[:, :, None], v[:, :, None]], axis=2)
        q, pages = rope_write(qkv, *angles, pages, rows.write_page, rows.write_offset, norms=norms, eps=eps)
        out = paged_attention(
            q, pages, rows.page_table, rows.query_start, rows.context_len, rows.num_decode,
            decode_only=rows.decode_only, scale=score.scale, window=score.window, softcap=score.softcap, sinks=sinks,
        )  # fmt: skip
        return out, pages

    return on_device(*qkv, angles, norms, pages, rows, score.sinks)


def _with_slopes(q: Array, k: Array, score: Scores, positions: Array) -> tuple[Array, Array]:
    """ALiBi as two more dims of a head. A position is two digits to the base 256, which every float type holds."""
    assert score.slopes is not None
    slopes = score.slopes / score.scale
    more = jnp.stack([256 * slopes, slopes], axis=-1).astype(q.dtype)  # [H, 2]
    digits = jnp.stack([positions // 256, positions % 256], axis=-1).astype(k.dtype)  # [T, 2]
    q = jnp.concatenate([q, jnp.broadcast_to(more, (*q.shape[:2], SLOPE_DIMS))], axis=-1)
    return q, jnp.concatenate([k, jnp.broadcast_to(digits[:, None], (*k.shape[:2], SLOPE_DIMS))], axis=-1)


def _padded(x: Array, head_dim: int) -> Array:
    return jnp.pad(x, ((0, 0), (0, 0), (0, head_dim - x.shape[-1])))


def _copied(x: Array, copies: int) -> Array:
    """Each kv head `copies` times, side by side."""
    return x if copies == 1 else jnp.repeat(x, copies, axis=1)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, Mask.describe)
torch.backends.mha.set_fastpath_enabled(False)  # as torchax wants it: the fast path is a kernel of torch's own
