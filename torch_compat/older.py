"""Attention of decoders that are older than transformers' attention interface: the same modules, over our pages.

`adopt` gives each such module a forward (or the part of it that attends) of ours, chosen by its class. Each says in a
few lines what transformers' own computes between the projections that it has.
"""

from __future__ import annotations

import functools
import importlib
import math
import sys
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxengine.models import UnsupportedModel
from torch_compat._torchax import jax_view, torch, torch_view
from torch_compat.attention import NAME, Scores, current


def prepare(model_type: str) -> None:
    """Before a model is built: add our name to its table of attention classes, if it has one."""
    if model_type in CLASSES:
        modeling = importlib.import_module(f"transformers.models.{model_type}.modeling_{model_type}")
        table = getattr(modeling, CLASSES[model_type])
        table[NAME] = table["eager"]


def adopt(model: torch.nn.Module) -> None:
    """Make such modules ours. Raises UnsupportedModel for one whose scores our kernels cannot compute."""
    for module in model.modules():
        kind = type(module)
        name = kind.__name__
        if name in COMMON:  # to several families
            name = f"{kind.__module__.rpartition('.')[2]}.{name}"
        if name in REFUSED:
            raise UnsupportedModel(f"{type(model).__name__}: {REFUSED[name]}.")
        for attribute, adapters in (("forward", FORWARD), ("_attn", ATTENTION)):
            if name in adapters:
                setattr(module, attribute, functools.partial(adapters[name], module))


def _attend(query: Any, key: Any, value: Any, score: Scores) -> Any:
    """query, key, value: [1, heads, T, D] → [1, T, H · D]."""
    q, k, v = (jax_view(x)[0].swapaxes(0, 1) for x in (query, key, value))
    out = current().attend(q, k, v, score)
    return torch_view(out.reshape(1, len(out), -1))


def _heads(x: Any, head_dim: int) -> Any:
    """[1, T, heads · D] → [1, heads, T, D]."""
    return x.view(*x.shape[:2], -1, head_dim).transpose(1, 2)


def _bert(
    self: Any, hidden_states: Any, attention_mask: Any = None, sinusoidal_pos: Any = None, *_: Any, **__: Any
) -> Any:
    head_dim = self.attention_head_size
    q, k, v = (_heads(project(hidden_states), head_dim) for project in (self.query, self.key, self.value))
    if hasattr(self, "rotary_value"):
        rotated = self.apply_rotary_position_embeddings(sinusoidal_pos, q, k, *([v] if self.rotary_value else []))
        q, k, v = (*rotated, v)[:3]
    return _attend(q, k, v, Scores(head_dim**-0.5)), None


def _bart(self: Any, hidden_states: Any, *_: Any, **__: Any) -> Any:
    q, k, v = (_heads(project(hidden_states), self.head_dim) for project in (self.q_proj, self.k_proj, self.v_proj))
    return self.out_proj(_attend(q, k, v, Scores(self.scaling))), None


def _xlm(self: Any, input: Any, *_: Any, **__: Any) -> Any:
    q, k, v = (_heads(project(input), self.head_dim) for project in (self.q_lin, self.k_lin, self.v_lin))
    return (self.out_lin(_attend(q, k, v, Scores(self.head_dim**-0.5))),)


def _bloom(self: Any, hidden_states: Any, residual: Any, *_: Any, **__: Any) -> Any:
    q, k, v = self._reshape(self.query_key_value(hidden_states))
    score = Scores(self.inv_norm_factor, slopes=jnp.asarray(power_slopes(self.num_heads), jnp.float32))
    return residual + self.dense(_attend(q, k, v, score)), None


def _falcon(
    self: Any, hidden_states: Any, alibi: Any = None, *_: Any, position_embeddings: Any = None, **__: Any
) -> Any:
    q, k, v = (x.transpose(1, 2) for x in self._split_heads(self.query_key_value(hidden_states)))
    if self.new_decoder_architecture:  # keys and values come once a query head
        group = self.num_heads // self.num_kv_heads
        k, v = k[:, ::group], v[:, ::group]
    slopes = None
    if alibi is None:
        q, k = sys.modules[type(self).__module__].apply_rotary_pos_emb(q, k, *position_embeddings)
    else:
        rounded = jnp.asarray(power_slopes(self.num_heads), jnp.bfloat16).astype(jnp.float32)
        slopes = rounded * self.inv_norm_factor
    return self.dense(_attend(q, k, v, Scores(self.inv_norm_factor, slopes=slopes))), None


def _mpt(self: Any, hidden_states: Any, position_bias: Any, *_: Any, **__: Any) -> Any:
    qkv = self.Wqkv(hidden_states)
    if self.clip_qkv:
        qkv = qkv.clamp(min=-self.clip_qkv, max=self.clip_qkv)
    q, k, v = (_heads(x, self.head_dim) for x in qkv.chunk(3, dim=2))
    # [H, 1, T]: the slope times how far a key lies behind the last one
    slopes = None if position_bias is None else jax_view(position_bias)[:, 0, -1] - jax_view(position_bias)[:, 0, -2]
    return self.out_proj(_attend(q, k, v, Scores(self.softmax_scale, slopes=slopes))), None


def _gpt_neo(self: Any, query: Any, key: Any, value: Any, *_: Any) -> Any:
    window = self.config.window_size if self.attention_type == "local" else None
    return _split(_attend(query, key, value, Scores(1.0, window)), self.num_heads), None


def _gpt_neox_japanese(self: Any, query: Any, key: Any, value: Any, *_: Any) -> Any:
    return _split(_attend(query, key, value, Scores(1 / self.norm_factor)), self.num_attention_heads), None


def _openai(self: Any, query: Any, key: Any, value: Any, *_: Any) -> Any:
    scale = value.shape[-1] ** -0.5 if self.scale else 1.0
    return [_split(_attend(query, key.transpose(-1, -2), value, Scores(scale)), self.n_head)]


def _split(x: Any, heads: int) -> Any:
    """[1, T, H · D] → [1, H, T, D]."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def power_slopes(heads: int) -> list[float]:
    """ALiBi's slopes as BLOOM has them: a geometric series, and every other of the next finer one where heads are no
    power of two (Press et al., arXiv:2108.12409)."""
    power = 2 ** math.floor(math.log2(heads))

    def series(n: int) -> list[float]:
        return [2 ** (-8 * (i + 1) / n) for i in range(n)]

    return series(power) + series(2 * power)[::2][: heads - power]


FORWARD: dict[str, Callable[..., Any]] = {
    "BigBirdSelfAttention": _bert,
    "GitSelfAttention": _bert,
    "MegatronBertSelfAttention": _bert,
    "RemBertSelfAttention": _bert,
    "RoFormerSelfAttention": _bert,
    "MvpAttention": _bart,
    "TrOCRAttention": _bart,
    "XGLMAttention": _bart,
    "modeling_xlm.MultiHeadAttention": _xlm,
    "BloomAttention": _bloom,
    "FalconAttention": _falcon,
    "MptAttention": _mpt,
}
ATTENTION: dict[str, Callable[..., Any]] = {
    "GPTNeoSelfAttention": _gpt_neo,
    "GPTNeoXJapaneseAttention": _gpt_neox_japanese,
    "modeling_openai.Attention": _openai,
}
COMMON = ("Attention", "MultiHeadAttention")
CLASSES = {
    "falcon": "FALCON_ATTENTION_CLASSES",
    "git": "GIT_SELF_ATTENTION_CLASSES",
    "gpt_neo": "GPT_NEO_ATTENTION_CLASSES",
}
REFUSED = {
    "BigBirdBlockSparseAttention": "block-sparse attention is not served; set attention_type to original_full",
    "CpmAntAttention": "its position bias depends on segments of the prompt",
    "InklingAttention": "its scores have a bias that it computes from hidden states",
    "LSHSelfAttention": "its attention sorts tokens by hashes",
    "LocalSelfAttention": "its attention is over chunks",
    "xLSTMBlock": "its recurrent state is kept outside of transformers' cache",
    "ProphetNetNgramSelfAttention": "it predicts several tokens by streams of their own",
    "RwkvSelfAttention": "its recurrent state is kept outside of transformers' cache",
    "XLNetRelativeAttention": "its positions are relative, computed from both ends",
}
