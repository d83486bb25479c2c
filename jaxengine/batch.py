"""The arrays of one step: `Packer.pack` on the host, `unpack` in the graph.

Everything a step needs from the host travels as one int32 vector (floats by their bits): one transfer instead of
twenty. `runner.py` packs the scheduler's Plan; `step.py` unpacks it. `Layout` says where each field lies for a bucket.
"""

from __future__ import annotations

import dataclasses
from array import array
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxengine.buckets import Bucket
from jaxengine.cache.full import PagedRows
from jaxengine.fields import lay_out
from jaxengine.request import Request
from jaxengine.sampling import SamplingRows, features, needs_full
from jaxengine.scheduler import Plan

FLOATS = ("temperature", "top_p", "min_p", "presence", "frequency", "repetition")
INTS = ("top_k", "seed", "prompt_len", "features", "wants_logprobs")
SETTINGS = INTS + FLOATS  # of a slot; side by side in this order
MAX_INT = 2**31 - 1  # a top_k beyond it is no limit either
CACHED_PAGES = 1024  # of prompts found in the prefix cache: any step with prompts has room for as many
IN_FLIGHT = -1  # token id that means: the last token sampled in this row's slot


class Batch(NamedTuple):
    """One step's arrays in the graph. T tokens, S rows, P pages a row, U page-table updates."""

    tokens: Array  # [T] int32, IN_FLIGHT where only the device knows the token
    token_slot: Array  # [T] int32 slot of the token's row
    positions: Array  # [T] int32
    slot: Array  # [S] int32, the scratch slot for dead rows
    context_len: Array  # [S] int32
    query_start: Array  # [S + 1] int32
    num_decode: Array  # [] int32
    token_row: Array  # [T] int32
    samples: Array  # [S] int32: tokens that the row samples, one a step
    last: Array  # [S] int32 index of the row's last token
    targets: Array  # [T] int32 prompt token that follows each token, -1 where none is asked for
    sampling: SamplingRows
    page_updates: tuple[Array, Array, Array]  # [U] slot, index in the page table, page


@dataclass(frozen=True)
class Layout:
    """Where each field of a step's packed vector lies. Static: part of a program's identity."""

    bucket: Bucket
    page_size: int
    scratch_slot: int  # the row of device state that no request owns
    num_groups: int = 1  # page numbers of each place (kv_groups.py)
    snapshots: int = 0  # kept recurrent states, which lie between those of the slots and that of the scratch slot

    @cached_property
    def updates(self) -> int:
        """U: page-table entries that can change in a step without a dispatch of their own."""
        grown = 0 if self.bucket.decode_only else max(self.bucket.tokens // self.page_size, CACHED_PAGES)
        return self.num_groups * (self.bucket.rows + grown)

    @cached_property
    def offsets(self) -> dict[str, tuple[int, int]]:
        T, S = self.bucket.tokens, self.bucket.rows
        sizes = {"num_decode": 1, "tokens": T, "slot": S, "context_len": S, "query_start": S + 1, "samples": S}
        sizes |= dict.fromkeys(SETTINGS, S)
        if not self.bucket.decode_only:
            sizes["targets"] = T
        sizes |= {"update_slot": self.updates, "update_index": self.updates, "update_page": self.updates}
        return lay_out(sizes)

    @cached_property
    def size(self) -> int:
        return max(end for _, end in self.offsets.values())


def unpack(packed: Array, layout: Layout) -> Batch:
    """[layout.size] int32 → Batch. Rows, positions and sampling settings are derived in the graph."""
    T, S = layout.bucket.tokens, layout.bucket.rows
    field = {name: lax.slice(packed, (start,), (end,)) for name, (start, end) in layout.offsets.items()}
    field |= {name: lax.bitcast_convert_type(field[name], jnp.float32) for name in FLOATS}
    context_len, query_start, slot = field["context_len"], field["query_start"], field["slot"]
    tokens_index = jnp.arange(T, dtype=jnp.int32)
    if layout.bucket.decode_only:
        token_row, last = tokens_index, tokens_index
        positions = jnp.maximum(context_len - 1, 0)
        targets = jnp.full((T,), -1, jnp.int32)
    else:
        token_row = jnp.searchsorted(query_start[1:], tokens_index, side="right", method="compare_all")
        token_row = jnp.minimum(token_row, S - 1).astype(jnp.int32)
        positions = context_len[token_row] - query_start[1:][token_row] + tokens_index
        positions = jnp.where(tokens_index < query_start[-1], positions, 0)
        last = jnp.maximum(query_start[1:] - 1, 0)
        targets = field["targets"]
    samples = field["samples"]
    sampling = SamplingRows(
        **{name: field[name] for name in FLOATS},
        top_k=field["top_k"],
        seed=field["seed"],
        position=context_len,
        num_outputs=context_len - field["prompt_len"],
        features=field["features"],
        wants_logprobs=field["wants_logprobs"] != 0,
        live=samples > 0,
    )
    return Batch(
        tokens=field["tokens"],
        token_slot=slot[token_row],
        positions=positions,
        slot=slot,
        context_len=context_len,
        query_start=query_start,
        num_decode=field["num_decode"][0],
        token_row=token_row,
        samples=samples,
        last=last,
        targets=targets,
        sampling=sampling,
        page_updates=(field["update_slot"], field["update_index"], field["update_page"]),
    )


def steps_later(batch: Batch, steps: Array) -> Batch:
    """The batch of rows that decode, `steps` steps on: each feeds the token sampled before, and is dead after its last.
    steps: [] int32, 0 is the batch itself.
    """
    live = steps < batch.samples
    context_len = jnp.where(live, batch.context_len + steps, 0)
    settings = dataclasses.replace(
        batch.sampling,
        position=context_len,
        num_outputs=batch.sampling.num_outputs + steps,
        live=live,
    )
    return batch._replace(
        tokens=jnp.where(steps > 0, IN_FLIGHT, batch.tokens),
        positions=jnp.maximum(context_len - 1, 0),
        context_len=context_len,
        sampling=settings,
    )


def paged_rows(batch: Batch, page_table: Array, layout: Layout, num_pages: int) -> PagedRows:
    """What layers need: each row's pages ([slots + 1, P · groups] by slot → a [S, P] for each group), where each
    token's keys go, and the slots.

    A row that is dead, or has ended in an earlier of several steps, has the scratch slot: its state stays as it is.
    """
    by_slot = page_table[batch.slot]
    tables = [by_slot[:, group :: layout.num_groups] for group in range(layout.num_groups)]
    if layout.bucket.decode_only:
        live = batch.context_len > 0
    else:
        live = jnp.arange(layout.bucket.tokens) < batch.query_start[-1]
    place = batch.positions // layout.page_size
    pages = [jnp.where(live, table[batch.token_row, place], num_pages) for table in tables]
    return PagedRows(
        page_table=tables[0],
        query_start=batch.query_start,
        context_len=batch.context_len,
        num_decode=batch.num_decode,
        write_page=pages[0],
        write_offset=batch.positions % layout.page_size,
        slot=jnp.where(batch.context_len > 0, batch.slot, layout.scratch_slot + layout.snapshots),
        other_groups=tuple(zip(tables[1:], pages[1:], strict=True)),
        decode_only=layout.bucket.decode_only,
    )


class Packer:
    """The host's side: remembers each slot's sampling settings, and writes a Plan into one int32 vector."""

    def __init__(self, slots: int) -> None:
        self.settings = np.zeros((len(SETTINGS), slots), np.int32)  # as they travel: floats by their bits
        self.full = np.zeros(slots, bool)  # the slot's request needs the full program

    def admit(self, request: Request) -> None:
        """Remember the settings of a request that has just entered its slot."""
        params, slot = request.params, request.slot
        self.full[slot] = needs_full(params)
        seed = np.uint32(request.seed).view(np.int32)
        ints = [min(params.top_k, MAX_INT), seed, len(request.prompt_token_ids), features(params)]
        floats = [params.temperature, params.top_p, params.min_p]
        floats += [params.presence_penalty, params.frequency_penalty, params.repetition_penalty]
        self.settings[:, slot] = [*ints, params.logprobs is not None, *np.array(floats, np.float32).view(np.int32)]

    def pack(self, plan: Plan, layout: Layout, updates: np.ndarray) -> np.ndarray:
        """A Plan → the packed vector. updates: [n, 3] page-table changes, n ≤ layout.updates."""
        rows, out = plan.rows, np.zeros(layout.size, np.int32)
        n, offsets = len(rows), layout.offsets

        def field(first: str, last: str | None = None) -> np.ndarray:
            return out[offsets[first][0] : offsets[last or first][1]]

        slots = np.fromiter((row.request.slot for row in rows), np.int32, n)
        counts = np.fromiter((row.num_tokens for row in rows), np.int32, n)
        tokens = array("i")
        for row in rows:
            known = row.request.token_ids
            if row.num_tokens == 1:
                tokens.append(known[row.start] if row.start < len(known) else IN_FLIGHT)
            else:
                tokens.extend(known[row.start : row.start + row.num_tokens])
        field("num_decode")[0] = plan.num_decode
        field("tokens")[: len(tokens)] = tokens
        slot, query_start = field("slot"), field("query_start")
        slot[:n], slot[n:] = slots, layout.scratch_slot
        field("context_len")[:n] = np.fromiter((row.start for row in rows), np.int32, n) + counts
        np.cumsum(counts, out=query_start[1 : n + 1])
        query_start[n + 1 :] = len(tokens)
        field("samples")[:n] = np.fromiter((row.samples for row in rows), np.int32, n)
        field(SETTINGS[0], SETTINGS[-1]).reshape(len(SETTINGS), -1)[:, :n] = self.settings[:, slots]
        changes = field("update_slot", "update_page").reshape(3, -1)
        changes[:, : len(updates)], changes[0, len(updates) :] = updates.T, layout.scratch_slot
        if not layout.bucket.decode_only:
            self._targets(plan, field("targets"))
        return out

    @staticmethod
    def _targets(plan: Plan, targets: np.ndarray) -> None:
        """The prompt tokens whose logprobs are asked for: each token's successor, as far as it is in the prompt."""
        targets[:] = -1
        end = 0
        for row in plan.rows:
            start, end = end, end + row.num_tokens
            if row.request.params.prompt_logprobs is not None:
                following = row.request.prompt_token_ids[row.start + 1 : row.start + row.num_tokens + 1]
                targets[start : start + len(following)] = following


def page_updates(plan: Plan) -> np.ndarray:
    """[n, 3] int32: every page-table entry that the plan changes, as (slot, index, page)."""
    slots, indices, numbers = array("i"), array("i"), array("i")
    for row in plan.rows:
        if pages := row.new_pages:  # one number at a time only in C: a long prompt brings a thousand
            slots += array("i", [row.request.slot]) * len(pages)
            indices += array("i", row.places)
            numbers += array("i", pages)
    return np.array([slots, indices, numbers], np.int32).T


def update_page_table(page_table: Array, slot: Array, index: Array, page: Array) -> Array:
    """Apply [U] changes to the [slots + 1, P] page table. Unused entries point at the scratch slot."""
    return page_table.at[slot, index].set(page)
