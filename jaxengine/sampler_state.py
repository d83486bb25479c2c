"""What the sampler remembers of a request between steps, by slot, on the device.

Part of the donated state (`state.py`). `admit` fills a slot from the vectors of `admission.py`, `remember` adds each
sampled token; `sampling.py` reads it. Only requests with `admission.features` use their slot; what lies in other slots
is stale.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxengine.admission import BAD_WORD_TOKENS, BAD_WORDS, EDITS, MAX_COUNT, TAIL, AdmissionLayout


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SamplerState:
    """`slots` rows, and one scratch row more. W = ceil(V / 32) words hold a bit a token: bit t % 32 of word t // 32.

    About 2.6 bytes a slot and token and 28 kB a slot: 325 MB for 1,024 slots and a vocabulary of 128k.
    """

    counts: Array  # [slots + 1, V] int16 how often each token was sampled, at most 32,767
    in_prompt: Array  # [slots + 1, W] int32 bits of the prompt's tokens
    allowed: Array  # [slots + 1, W] int32 bits of allowed_token_ids
    edit_ids: Array  # [slots + 1, EDITS] int32 tokens whose logit is changed, V where unused
    edit_bias: Array  # [slots + 1, EDITS] float32 what is added (logit_bias; -inf for min_tokens)
    edit_until: Array  # [slots + 1, EDITS] int32 while fewer output tokens than this were sampled
    bad_words: Array  # [slots + 1, BAD_WORDS, BAD_WORD_TOKENS] int32 right-aligned, -1 where unused
    tail: Array  # [slots + 1, TAIL] int32 the latest output tokens, right-aligned, -1 where there is none

    @staticmethod
    def create(slots: int, vocab: int, sharding: jax.sharding.Sharding | None = None) -> SamplerState:
        """Zeros; also inside jit (without sharding) or under eval_shape."""
        shapes = _shapes(slots, vocab)
        return SamplerState(**{name: jnp.zeros(s.shape, s.dtype, device=sharding) for name, s in shapes.items()})

    @property
    def vocab(self) -> int:
        return self.counts.shape[1]


def state_bytes(slots: int, vocab: int) -> int:
    """Bytes of a SamplerState."""
    return sum(s.size * s.dtype.itemsize for s in _shapes(slots, vocab).values())


def admit(state: SamplerState, packed: Array) -> SamplerState:
    """Write one vector of `admission.admission_chunks` into its slot. Donate the state: nothing but the slot is
    touched.
    """
    layout = AdmissionLayout(state.vocab)
    field = {name: packed[start:end] for name, (start, end) in layout.offsets.items()}
    slot, first = field["slot"][0], field["first"][0]
    field["edit_bias"] = lax.bitcast_convert_type(field["edit_bias"], jnp.float32)
    field["bad_words"] = field["bad_words"].reshape(BAD_WORDS, BAD_WORD_TOKENS)
    known = jnp.where(first != 0, 0, state.counts[slot].astype(jnp.int32))
    known = known.at[field["count_ids"]].add(field["counts"], mode="drop")
    field["counts"] = known.astype(jnp.int16)
    names = _shapes(1, state.vocab)
    return SamplerState(**{name: getattr(state, name).at[slot].set(field[name]) for name in names})


def remember(state: SamplerState, slot: Array, tokens: Array, live: Array) -> SamplerState:
    """Add the sampled tokens: slot [S], tokens [S] int32, live [S] bool (rows that sampled). In place when donated."""
    S, scratch = slot.shape[0], state.counts.shape[0] - 1
    owner = jnp.where(live, slot, scratch + 1 + jnp.arange(S))  # past the end: dropped, and no two alike
    count = jnp.minimum(state.counts[slot, tokens], MAX_COUNT - 1) + jnp.int16(1)
    tail = jnp.concatenate([state.tail[slot][:, 1:], tokens[:, None]], axis=1)
    return SamplerState(
        counts=state.counts.at[owner, tokens].set(count, mode="drop", unique_indices=True),
        in_prompt=state.in_prompt,
        allowed=state.allowed,
        edit_ids=state.edit_ids,
        edit_bias=state.edit_bias,
        edit_until=state.edit_until,
        bad_words=state.bad_words,
        tail=state.tail.at[owner].set(tail, mode="drop", unique_indices=True),
    )


def _shapes(slots: int, vocab: int) -> dict[str, jax.ShapeDtypeStruct]:
    rows, words = slots + 1, AdmissionLayout(vocab).words
    return {
        "counts": jax.ShapeDtypeStruct((rows, vocab), jnp.int16),
        "in_prompt": jax.ShapeDtypeStruct((rows, words), jnp.int32),
        "allowed": jax.ShapeDtypeStruct((rows, words), jnp.int32),
        "edit_ids": jax.ShapeDtypeStruct((rows, EDITS), jnp.int32),
        "edit_bias": jax.ShapeDtypeStruct((rows, EDITS), jnp.float32),
        "edit_until": jax.ShapeDtypeStruct((rows, EDITS), jnp.int32),
        "bad_words": jax.ShapeDtypeStruct((rows, BAD_WORDS, BAD_WORD_TOKENS), jnp.int32),
        "tail": jax.ShapeDtypeStruct((rows, TAIL), jnp.int32),
    }
