"""A device that keeps what plans tell it to, and a model whose next token depends on every token before it.

It holds pages, page tables and last tokens as the real one does (by page and by slot), runs plans in order, and checks
what the scheduler promises about each of them. Tokens that come out right mean that every page held the right tokens.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from jaxengine.request import Request
from jaxengine.scheduler import Plan, Row, Scheduler

UNWRITTEN = -1


def next_token(tokens: Sequence[int], seed: int, vocab: int) -> int:
    return zlib.crc32(b"".join(token.to_bytes(4, "little") for token in tokens), seed) % vocab


def alone(request: Request, vocab: int, max_length: int) -> tuple[list[int], str, int | None]:
    """The output tokens, finish reason and stop reason of a request that has the engine for itself."""
    params, tokens, out = request.params, list(request.prompt_token_ids), []
    while True:
        token = next_token(tokens, request.seed, vocab)
        tokens.append(token)
        out.append(token)
        if len(out) >= params.min_tokens:
            if token in request.eos_token_ids and not params.ignore_eos:
                return out, "stop", None
            if token in (params.stop_token_ids or ()):
                return out, "stop", token
        if len(tokens) >= max_length or len(out) == params.max_tokens:
            return out, "length", None


class FakeDevice:
    """Runs plans. `vocab` ids; tokens are 0 … vocab - 1."""

    def __init__(self, scheduler: Scheduler, vocab: int) -> None:
        self.scheduler = scheduler
        self.vocab = vocab
        self.page_size = scheduler.page_size
        self.pages = [[UNWRITTEN] * self.page_size for _ in range(scheduler.pool.num_pages)]
        self.groups = scheduler.groups
        self.tables: dict[int, dict[int, int]] = {}  # slot → place · groups + group → page
        self.last: dict[int, int] = {}  # slot → token
        self.fed: dict[int, dict[int, int]] = {}  # slot → position → token
        self.owner: dict[int, Request] = {}  # slot → who was admitted to it

    def run(self, plan: Plan) -> list[list[int]]:
        """Run a plan; of each step one token a row, as the real device gives them (meaningless where nothing is
        sampled)."""
        self._check(plan)
        return [self._step(plan, step) for step in range(plan.num_steps)]

    def _step(self, plan: Plan, step: int) -> list[int]:
        writers: dict[int, Request] = {}
        tokens = [0] * (len(plan.rows) + 2)  # padding rows
        for row in plan.rows:
            if step == 0:
                self._enter(row)
            if step == 0 or step < row.samples:
                self._write(row, step, writers)
        for place, row in enumerate(plan.rows):
            if step > 0 and step >= row.samples:
                continue
            end = row.start + row.num_tokens + step
            table = self.tables[row.request.slot]
            for group, window in enumerate(self.groups.windows):
                first = max(0, row.start + step - (window or end) + 1)  # what the first of its tokens sees
                seen = [self._page(table, p, group)[p % self.page_size] for p in range(first, end)]
                assert UNWRITTEN not in seen
                before = self._known(row.request, end)[:first]  # the windows show no more: a token needs all of them
                expected = next_token([*before, *seen], row.request.seed, self.vocab)
                assert group == 0 or expected == tokens[place], "groups hold different tokens"
                tokens[place] = expected
            if row.samples:
                self.last[row.request.slot] = tokens[place]
        self._check_sharing(writers)
        return tokens

    def _page(self, table: dict[int, int], position: int, group: int) -> list[int]:
        return self.pages[table[position // self.page_size * self.groups.count + group]]

    def _known(self, request: Request, end: int) -> list[int]:
        """The request's tokens before `end`; the newest may be on the device alone."""
        known = request.token_ids[:end]
        return known + [self.fed[request.slot][position] for position in range(len(known), end)]

    def _enter(self, row: Row) -> None:
        request, slot = row.request, row.request.slot
        if row.admitted:
            self.owner[slot], self.tables[slot], self.fed[slot] = request, {}, {}
            self.last.pop(slot, None)
        assert self.owner[slot] is request, "a row of a slot that belongs to another"
        self.tables[slot].update(zip(row.places, row.new_pages, strict=True))

    def _write(self, row: Row, step: int, writers: dict[int, Request]) -> None:
        request, slot = row.request, row.request.slot
        end = row.start + row.num_tokens + step
        for position in range(end - 1 if step else row.start, end):
            known = position < len(request.token_ids)
            assert known or position == end - 1, "only the newest token may be unknown to the host"
            token = self.fed[slot][position] = request.token_ids[position] if known else self.last[slot]
            for group in range(self.groups.count):
                page = self.tables[slot][position // self.page_size * self.groups.count + group]
                assert page != 0
                assert writers.setdefault(page, request) is request, "two requests write to a page"
                self.pages[page][position % self.page_size] = token

    def _check(self, plan: Plan) -> None:
        scheduler, rows = self.scheduler, plan.rows
        assert rows
        assert sum(row.num_tokens for row in rows) == plan.num_tokens <= scheduler.max_num_batched_tokens
        assert all(row.num_tokens == 1 for row in rows[: plan.num_decode])
        assert all(row.num_tokens > 1 for row in rows[plan.num_decode :])
        if plan.num_steps > 1:
            assert plan.num_decode == len(rows) <= scheduler.num_steps_rows
            assert max(row.samples for row in rows) == plan.num_steps == scheduler.num_steps
            assert not any(row.request.steps_alone for row in rows)
        requests = [row.request for row in rows]
        slots = [request.slot for request in requests]
        assert len(set(slots)) == len(set(map(id, requests))) == len(rows), "one row a request and slot"
        assert not set(map(id, requests)) & set(map(id, plan.preempted)), "a preempted request runs in the same step"
        assert not (plan.preempted and any(row.admitted for row in rows)), "admission in a step that preempted"
        for victim in plan.preempted:
            assert all(request.order < victim.order for request in requests), "the wrong one was preempted"
        for row in rows:
            request = row.request
            assert 0 < row.num_tokens <= scheduler.longest_chunk
            assert 0 <= row.samples <= plan.num_steps
            end = row.start + row.num_tokens + max(0, row.samples - 1)
            assert end < request.max_length, "a token too many"
            assert end <= request.covered * self.page_size <= len(request.pages) * self.page_size
            assert row.epoch == request.epoch
            if request.grammar is not None and row.samples:
                assert request.num_in_flight == row.samples == 1, "what it may sample is not known yet"
                assert request.matcher is not None
                assert request.matcher.mask is not None

    def _check_sharing(self, writers: dict[int, Request]) -> None:
        """Whoever holds a page that is being written has the same tokens up to its end."""
        for page, writer in writers.items():
            index = writer.pages.index(page) if page in writer.pages else -1
            assert index >= 0 or self.groups.slides
            for other in self.scheduler.requests.values():
                if other is not writer and page in other.pages:
                    end = (index // self.groups.count + 1) * self.page_size
                    assert other.pages[index] == page
                    assert other.token_ids[:end] == writer.token_ids[:end], "an unfinished page is shared"
                    assert (other.cache_salt, other.lora_name) == (writer.cache_salt, writer.lora_name)
