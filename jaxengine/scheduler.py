"""Who runs in the next step, with how many tokens, in which pages: continuous batching without phases.

The core calls `schedule()` to plan a step and `update()` when a step's tokens have arrived; the plan of step n+1 may
be made before step n's tokens are known. Pages come from page_tables.py; the line is waiting.py, who of it comes in is
decided in newcomers.py, and page_registry.py tells the prefix cache of full pages.

Each step every running request gets at least one token, in order; then the line moves up. Who waits for many pages may
be passed by a few who need less, and a long prompt leaves a part of each step to others. When pages run out, the last
in order gives its own up and goes back to the front of the line (its full pages stay in the prefix cache until they are
taken). So the first in order is never held up by the others, and since requests end, everybody becomes the first: under
"fcfs" nobody starves, under "priority" nobody among equals.
"""

from __future__ import annotations

import time
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from typing import Literal

from jaxengine.kv_groups import KvGroups
from jaxengine.newcomers import Newcomers
from jaxengine.page_registry import NEVER, PageRegistry
from jaxengine.page_tables import PageTables
from jaxengine.pages import PagePool
from jaxengine.plan import Plan, Row, Sampled
from jaxengine.prefix_cache import PrefixCache
from jaxengine.request import InvalidRequest, Request, Status
from jaxengine.sampling_params import shown
from jaxengine.state_snapshots import StateSnapshots
from jaxengine.waiting import WaitingLine

__all__ = ["Plan", "Row", "Sampled", "Scheduler"]

HEADROOM_TOKENS = 16  # room for so many more tokens of each running request, or newcomers throw others out
MOST_PADDING = 256  # tokens: about what a step computes while it reads the weights, which a cut makes it do once more
FAIR_SHARE = 0.75  # of a step's tokens for one prompt, at most, while others wait


class Scheduler:
    """Requests between `add` and their finish. Never plans more than a step's budget, or past a request's limits."""

    def __init__(
        self,
        pool: PagePool,
        prefix_cache: PrefixCache | None,
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_model_len: int,
        page_size: int,
        policy: Literal["fcfs", "priority"] = "fcfs",
        long_prefill_token_threshold: int = 0,
        groups: KvGroups | None = None,  # of the model's layers
        token_sizes: Sequence[int] = (),  # those that a step with prompts is padded to, ascending
        num_steps: int = 1,  # decode steps of one dispatch
        num_steps_rows: int = 0,  # most rows of such a dispatch
        snapshots: StateSnapshots | None = None,  # of models with recurrent layers: prompts go on from these alone
    ) -> None:
        if max_num_batched_tokens < max_num_seqs:
            raise ValueError(f"max_num_batched_tokens: {max_num_batched_tokens} is below max_num_seqs={max_num_seqs}")
        if policy not in ("fcfs", "priority"):
            raise ValueError(f"scheduling_policy: {policy!r} is unknown; use 'fcfs' or 'priority'")
        self.pool = pool
        self.groups = groups or KvGroups()
        if prefix_cache is None:
            prefix_cache = PrefixCache(pool, page_size, groups=self.groups, enabled=False)
        self.prefix_cache = prefix_cache
        if (self.prefix_cache.pool, self.prefix_cache.page_size) != (pool, page_size):
            raise ValueError("the prefix cache is of another pool or page size")
        if self.prefix_cache.groups != self.groups:
            raise ValueError("the prefix cache is of other groups of layers")
        self.page_size = page_size
        self.snapshots = snapshots
        self.policy = policy
        self.max_num_seqs, self.max_num_batched_tokens = max_num_seqs, max_num_batched_tokens
        self.longest_chunk = long_prefill_token_threshold or max_num_batched_tokens
        # The last token of a request is never fed back, so it needs no place in a page.
        self.page_tables = PageTables(pool, page_size, self.groups, self.longest_chunk)
        longest = self.groups.longest(pool.num_usable, page_size, self.longest_chunk, max_model_len)
        self.max_length = min(max_model_len, longest + 1)
        # Pages that an admission leaves free for each running request.
        self.headroom = HEADROOM_TOKENS / page_size * self.groups.count
        self.token_sizes = token_sizes
        self.num_steps, self.num_steps_rows = num_steps, num_steps_rows
        self.most_padding = MOST_PADDING
        self.num_preemptions = 0
        self.requests: dict[str, Request] = {}  # the unfinished ones
        self._running: list[Request] = []  # by order; those that have finished since the last step included
        self._line = WaitingLine()
        self._num_compiling = 0  # requests that are not in line yet
        self._compiled: deque[Request] = deque()  # those whose grammar has been compiled since, filled by other threads
        self._refused: list[tuple[Request, InvalidRequest]] = []
        self._slots = list(range(max_num_seqs - 1, -1, -1))  # free ones, the lowest last
        self._num_added = 0
        self._num_running = 0
        self._registry = PageRegistry(prefix_cache)
        self._newcomers = Newcomers(self._line, self.page_tables, self._registry, snapshots)

    @property
    def num_waiting(self) -> int:
        return len(self._line) + self._num_compiling

    @property
    def num_running(self) -> int:
        return self._num_running

    def has_unfinished(self) -> bool:
        return bool(self.requests)

    # -- requests come and go -----------------------------------------------------------------------------------------

    def add(self, request: Request) -> None:
        """Put a new request in line. Raises InvalidRequest if it could never run."""
        params, length = request.params, len(request.token_ids)
        if request.request_id in self.requests:
            raise InvalidRequest("request_id", f"{request.request_id!r} is in use", "use another id")
        if not 1 <= length < self.max_length:
            raise InvalidRequest(
                "prompt_token_ids", f"a prompt of {length} tokens", f"send 1 to {self.max_length - 1} tokens"
            )
        if not isinstance(request.priority, int):
            raise InvalidRequest("priority", f"got {shown(request.priority)}", "use an integer; lower runs earlier")
        if request.priority and self.policy == "fcfs":
            raise InvalidRequest(
                "priority",
                f"{request.priority} means nothing here",
                "send 0, or start with scheduling_policy='priority'",
            )
        room = params.max_tokens if params.max_tokens is not None else self.max_length
        request.max_length = min(request.num_prompt_tokens + room, self.max_length)
        stops = frozenset(params.stop_token_ids or ())
        request.stop_tokens = stops if params.ignore_eos else stops | request.eos_token_ids
        place = (self._num_added,)
        request.order = place if self.policy == "fcfs" else (request.priority, request.arrival_time, *place)
        self._num_added += 1
        if self.prefix_cache.shares(request):
            self.prefix_cache.hash_pages(request)
        self.requests[request.request_id] = request
        if request.grammar is None:
            self._line.push(request)
        else:
            request.status = Status.COMPILING
            self._num_compiling += 1
            request.grammar.add_done_callback(lambda _: self._compiled.append(request))

    def take_refused(self) -> list[tuple[Request, InvalidRequest]]:
        """The requests that ended since the last call because their grammar cannot be compiled, and why."""
        refused, self._refused = self._refused, []
        return refused

    def abort(self, request_id: str) -> Request | None:
        """Finish a request that nobody wants any more; None if it is unknown or has finished."""
        request = self.requests.get(request_id)
        if request is not None:
            self.finish(request, "abort")
        return request

    def finish(self, request: Request, reason: str, stop_reason: int | str | None = None) -> None:
        """End a request now; a token that is still on its way is dropped.

        Its pages are free at once: the device runs steps in order, so a late write lands before the next owner's.
        """
        if request.status is Status.FINISHED:
            return
        was, request.status = request.status, Status.FINISHED
        request.finish_reason, request.stop_reason = reason, stop_reason
        if was is Status.RUNNING:
            self._give_up(request)
        elif was is Status.WAITING:
            self._line.left()
        else:
            self._num_compiling -= 1
        del self.requests[request.request_id]

    def reset_prefix_cache(self, reset_running_requests: bool = False) -> bool:
        """Forget every cached page. False while requests hold pages, unless they may be preempted for it."""
        if reset_running_requests:
            for request in [r for r in self._running if r.status is Status.RUNNING]:
                self._preempt(request)
        if not self.prefix_cache.reset():
            return False
        if self.snapshots:
            self.snapshots.forget()
        return True

    def renew(self, preempt: bool) -> None:
        """The weights are others from now on: nothing in the prefix cache holds. Running requests keep their pages, or
        are computed again when they may be preempted."""
        self.reset_prefix_cache(preempt)
        self.prefix_cache.renew()
        for request in self.requests.values():
            request.page_hashes.clear()
            if request.status is Status.RUNNING:
                request.register_at = NEVER

    # -- a step -------------------------------------------------------------------------------------------------------

    def schedule(self) -> Plan | None:
        """Plan the next step, as if every step before had run; None when nobody can run before the next `update`."""
        if len(self._running) != self._num_running:
            self._running = [request for request in self._running if request.status is Status.RUNNING]
        if self._compiled:
            self._queue_compiled()
        if self.snapshots:
            self.snapshots.publish()
        singles: list[Row] = []
        chunks: list[Row] = []
        preempted: list[Request] = []
        num_steps = self._steps_ahead()
        budget = self._continue_running(singles, chunks, preempted, num_steps)
        if not preempted:
            budget = self._admit(singles, chunks, budget)
        if not singles and not chunks:
            return None
        num_tokens = self.max_num_batched_tokens - budget
        if chunks:
            num_tokens -= self._cut_padding(chunks[-1], num_tokens)
        self._registry.register_planned()
        return Plan(singles + chunks, len(singles), num_tokens, preempted, num_steps)

    def update(self, plan: Plan, tokens: Sequence[int], step: int = 0) -> list[Sampled]:
        """The tokens of a plan's step (the first of them, or a later one) have arrived, tokens[i] for plan.rows[i].

        Rows of requests that have finished since are dropped; those of requests preempted since count.
        """
        sampled = []
        for place, row in enumerate(plan.rows):
            if row.samples <= step:
                continue
            request = row.request
            if row.epoch != request.epoch and request.status is Status.FINISHED:
                continue
            token = tokens[place]
            request.num_in_flight -= 1
            request.token_ids.append(token)
            length = len(request.token_ids)
            if length >= request.register_at:
                self._registry.register(request)
            reason, stop, complete = None, None, False
            if token in request.stop_tokens and request.num_output_tokens >= request.params.min_tokens:
                reason = "stop"
                if request.params.ignore_eos or token not in request.eos_token_ids:
                    stop = token
            elif length >= request.max_length:
                reason = "length"
            if request.matcher is not None and (ended := request.matcher.advance(token)) is not None:
                complete = ended == "stop" and reason != "stop"
                reason = ended
            if reason is not None:
                self.finish(request, reason, stop)
            sampled.append(Sampled(request, token, reason, stop, place, complete))
        return sampled

    def _queue_compiled(self) -> None:
        """Put those in line whose grammar is ready, where they would be had they never waited for it."""
        while self._compiled:
            request = self._compiled.popleft()
            if request.status is not Status.COMPILING:
                continue  # nobody wants it any more
            assert request.grammar is not None
            try:
                request.matcher = request.grammar.result().matcher(request.output_token_ids, request.user_request_id)
            except InvalidRequest as error:
                self._refused.append((request, error))
                self.finish(request, "error")
            else:
                self._num_compiling -= 1
                request.status = Status.WAITING
                self._line.push(request)

    def _steps_ahead(self) -> int:
        """How many steps to dispatch at once: several where nobody waits and all that run do nothing but decode.

        A step can be shorter than what the host does for a dispatch, when rows are few and the model is small. Then the
        device would wait.
        """
        running = self._running
        if self.num_steps == 1 or not 0 < len(running) <= self.num_steps_rows or len(self._line):
            return 1
        if self.pool.num_free < len(running) * -(-self.num_steps // self.page_size) * self.groups.count:
            return 1
        left = 0  # tokens of the longest: without any use for a whole run of steps, single ones are quicker
        for request in running:
            if request.steps_alone or request.num_tokens - request.num_computed_tokens != 1:
                return 1
            left = max(left, request.max_length - request.num_tokens)
        return self.num_steps if left >= self.num_steps else 1

    def _continue_running(self, singles: list[Row], chunks: list[Row], preempted: list[Request], num_steps: int) -> int:
        """Rows for the running requests, in order. Returns the budget that is left."""
        running, pool, page_size = self._running, self.pool, self.page_size
        budget = self.max_num_batched_tokens
        index = 0
        while index < len(running):
            request = running[index]
            index += 1
            total = len(request.token_ids) + request.num_in_flight
            if total >= request.max_length:
                continue  # its last token is on its way
            if request.matcher is not None and (request.num_in_flight or request.matcher.mask is None):
                continue  # the token that is on its way decides what may follow
            start = request.num_computed_tokens
            count = total - start
            if count > 1:  # leave a token for everybody behind
                count = min(count, self._longest_chunk(), budget - (len(running) - index))
            if request.save_at:
                count = min(count, request.save_at[0] - start)
            end = start + count
            samples = min(num_steps, request.max_length - total) if end == total else 0
            end += max(0, samples - 1)  # what the steps after the first compute: tokens that those before them sample
            pages: Sequence[int] = ()
            places: Sequence[int] = ()
            if end > request.covered * page_size:
                places = self.page_tables.missing(request, start, end)
                if len(places) > pool.num_free and not self._make_room(request, len(places), preempted):
                    break
                pages = self.page_tables.fill(request, places, end)
            request.num_computed_tokens = end
            request.num_in_flight += samples
            row = Row(request, start, count, samples, pages, places, False, request.epoch)
            self._keep_state(row, end)
            (singles if count == 1 else chunks).append(row)
            budget -= count
            if count > 1 or end >= request.register_at:
                self._registry.planned.append(request)
        return budget

    def _keep_state(self, row: Row, end: int) -> None:
        """Where the row's chunk was cut for it, have the recurrent state behind it kept."""
        save_at = row.request.save_at
        if save_at and save_at[0] == end and self.snapshots:
            row.save = self.snapshots.save(row.request, save_at.pop(0))

    def _make_room(self, request: Request, wanted: int, preempted: list[Request]) -> bool:
        """Preempt from the end until `wanted` pages are free. False if it came to `request` itself."""
        while self.pool.num_free < wanted:
            victim = self._running.pop()
            self._preempt(victim)
            preempted.append(victim)
            if victim is request:
                return False
        return True

    def _admit(self, singles: list[Row], chunks: list[Row], budget: int) -> int:
        """Let the line move up while there are slots, budget and pages for the whole of a request's tokens."""
        while budget > 0 and self._slots:
            request = self._newcomers.next(self._num_running, self._num_added, self.headroom)
            if request is None:
                break
            self._line.take(request)
            request.status = Status.RUNNING
            request.slot = self._slots.pop()
            request.scheduled_time = request.scheduled_time or time.time()
            insort(self._running, request, key=_order)
            self._num_running += 1
            start, total = request.num_computed_tokens, len(request.token_ids)
            count = min(total - start, self._longest_chunk(), budget)
            if request.save_at:
                count = min(count, request.save_at[0] - start)
            end = start + count
            samples = int(end == total)
            if end > request.covered * self.page_size:
                self.page_tables.fill(request, self.page_tables.missing(request, start, end), end)
            request.num_computed_tokens = end
            request.num_in_flight += samples
            pages = request.pages[:]
            row = Row(request, start, count, samples, pages, range(len(pages)), True, request.epoch)
            row.restore = request.resumed_from
            self._keep_state(row, end)
            (singles if count == 1 else chunks).append(row)
            budget -= count
            if count > 1 or end >= request.register_at:
                self._registry.planned.append(request)
        return budget

    def _longest_chunk(self) -> int:
        """Most tokens of one prompt in this step: while others wait a long one leaves them some."""
        if len(self._line) and self._slots:
            return min(self.longest_chunk, max(1, int(self.max_num_batched_tokens * FAIR_SHARE)))
        return self.longest_chunk

    def _cut_padding(self, chunk: Row, num_tokens: int) -> int:
        """Leave the end of the step's last chunk to the next step where the step would mostly be padding.

        Returns the tokens cut off: as many as make the next smaller size full. Nobody behind may share its pages yet.
        """
        request, index = chunk.request, bisect_left(self.token_sizes, num_tokens)
        if chunk.save is not None:
            return 0
        if not 0 < index < len(self.token_sizes) or self._registry.planned[-1:] != [request]:
            return 0
        excess = num_tokens - self.token_sizes[index - 1]
        if self.token_sizes[index] - num_tokens <= self.most_padding or chunk.num_tokens - excess < 2:
            return 0
        chunk.num_tokens -= excess
        request.num_computed_tokens -= excess
        request.num_in_flight -= chunk.samples
        chunk.samples = 0
        return excess

    def _preempt(self, request: Request) -> None:
        """Back to the front of the line. What the host knows, and a token still on its way, will be computed again."""
        self._give_up(request)
        request.status = Status.WAITING
        request.num_preemptions += 1
        self.num_preemptions += 1
        self._line.push(request)

    def _give_up(self, request: Request) -> None:
        self.page_tables.give_up(request)
        self._slots.append(request.slot)
        request.slot = -1
        request.num_computed_tokens = 0
        request.save_at, request.resumed_from = [], None
        request.epoch += 1
        self._num_running -= 1


def _order(request: Request) -> tuple[float, ...]:
    return request.order
