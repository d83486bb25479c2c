"""The scheduler under random traffic: each request gets the tokens it would get alone, and no page is ever lost.

Adds (shared prefixes, n > 1, priorities, salts, stops, grammars), aborts, stop strings, cache resets, pools that are
too small, zero or one step in flight. The fake device holds what the real one would; its tokens are right only if its
pages are.
"""

from __future__ import annotations

from collections import Counter, deque

from fake_device import FakeDevice, alone
from fake_grammar import FakeGrammar, FakeMatcher
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from jaxengine.kv_groups import KvGroups
from jaxengine.newcomers import MOST_OVERTAKING
from jaxengine.pages import NULL_PAGE, PagePool
from jaxengine.prefix_cache import PrefixCache
from jaxengine.request import Request, SamplingParams, Status, make_requests
from jaxengine.scheduler import Plan, Scheduler

VOCAB = 200
EOS = frozenset({0, 1})


class Traffic(RuleBasedStateMachine):
    @initialize(
        num_pages=st.integers(4, 24),
        page_size=st.sampled_from([1, 2, 4, 4]),
        seqs=st.integers(1, 6),
        extra_budget=st.integers(0, 20),
        max_model_len=st.integers(8, 60),
        policy=st.sampled_from(["fcfs", "priority"]),
        threshold=st.sampled_from([0, 0, 1, 3]),
        caching=st.sampled_from([True, True, False]),
        algorithm=st.sampled_from(["sha256", "xxhash_cbor"]),
        headroom=st.sampled_from([0.0, 0.0, 1.0]),
        token_sizes=st.sampled_from([(), (2, 5, 9, 26), (4, 26)]),
        num_steps=st.sampled_from([1, 2, 4, 7]),
        num_steps_rows=st.integers(1, 8),
        most_padding=st.integers(0, 4),
        windows=st.sampled_from([(None,), (None,), (7,), (None, 3), (None, 5, 5), (12, 2)]),
    )
    def start(
        self,
        num_pages: int,
        page_size: int,
        seqs: int,
        extra_budget: int,
        max_model_len: int,
        policy: str,
        threshold: int,
        caching: bool,
        algorithm: str,
        headroom: float,
        token_sizes: tuple[int, ...],
        most_padding: int,
        num_steps: int,
        num_steps_rows: int,
        windows: tuple[int | None, ...],
    ) -> None:
        groups = KvGroups(windows)
        num_pages = max(num_pages * groups.count, groups.most_pages(4, page_size, seqs + extra_budget) + 1)
        self.pool = PagePool(num_pages)
        self.cache = PrefixCache(self.pool, page_size, algorithm, groups=groups, enabled=caching)
        self.scheduler = Scheduler(
            self.pool,
            self.cache,
            max_num_seqs=seqs,
            max_num_batched_tokens=seqs + extra_budget,
            max_model_len=max_model_len,
            page_size=page_size,
            groups=groups,
            policy=policy,  # type: ignore[arg-type]
            long_prefill_token_threshold=threshold,
            token_sizes=token_sizes,
            num_steps=num_steps,
            num_steps_rows=num_steps_rows,
        )
        self.scheduler.most_padding = most_padding
        self.scheduler.headroom = headroom
        self.device = FakeDevice(self.scheduler, VOCAB)
        self.in_flight: deque[tuple[Plan, list[list[int]]]] = deque()
        self.all: list[Request] = []
        self.grammars: list[FakeGrammar] = []
        self.cut: set[str] = set()  # ended from outside
        self.contents: dict[bytes, list[int]] = {}  # page hash → every token up to its end
        self.steps = 0

    @rule(
        family=st.integers(0, 2),
        length=st.integers(1, 20),
        own=st.integers(0, 3),
        n=st.sampled_from([1, 1, 1, 2, 4]),
        max_tokens=st.one_of(st.none(), st.integers(1, 40)),
        min_tokens=st.integers(0, 3),
        ignore_eos=st.booleans(),
        stop=st.sampled_from([[], [2, 3], [0, 5]]),
        priority=st.integers(-1, 1),
        salt=st.sampled_from([None, None, "a"]),
        lora=st.sampled_from([None, None, None, "a"]),
        scores_prompt=st.sampled_from([False, False, False, True]),
        steps_alone=st.sampled_from([False, False, False, True]),
        constrained=st.sampled_from([False, False, False, True]),
    )
    def add(
        self,
        family: int,
        length: int,
        own: int,
        n: int,
        max_tokens: int | None,
        min_tokens: int,
        ignore_eos: bool,
        stop: list[int],
        priority: int,
        salt: str | None,
        lora: str | None,
        scores_prompt: bool,
        steps_alone: bool,
        constrained: bool,
    ) -> None:
        tokens = [(family * 7 + i) % VOCAB for i in range(length)] + [
            (len(self.all) * 3 + i) % VOCAB for i in range(own)
        ]
        tokens = tokens[: self.scheduler.max_length - 1]
        params = SamplingParams(
            n=n,
            max_tokens=max_tokens,
            min_tokens=min(min_tokens, max_tokens or min_tokens),
            ignore_eos=ignore_eos,
            stop_token_ids=stop,
            prompt_logprobs=0 if scores_prompt else None,
        )
        grammar = FakeGrammar() if constrained else None
        if grammar is not None:
            self.grammars.append(grammar)
        made = make_requests(
            str(len(self.all)),
            tokens,
            params,
            seed=len(self.all),
            priority=priority if self.scheduler.policy == "priority" else 0,
            cache_salt=salt,
            lora_name=lora,
            eos_token_ids=EOS,
            arrival_time=float(len(self.all)),
            steps_alone=steps_alone or constrained,
            grammar=grammar and grammar.future,
        )
        for request in made:
            self.scheduler.add(request)
            self.all.append(request)

    @rule()
    def grammars_are_ready(self) -> None:
        """Those asked for are compiled, and masks of what has come since are written."""
        for grammar in self.grammars:
            if not grammar.future.done():
                grammar.compile()
            for matcher in grammar.matchers:
                matcher.write()

    @rule(depth=st.integers(0, 1))
    def step(self, depth: int) -> None:
        self.steps += 1
        plan = self.scheduler.schedule()
        if plan is not None:
            self.in_flight.append((plan, self.device.run(plan)))
        else:
            depth = 0
            unfinished = self.scheduler.requests.values()
            waits = not unfinished or any(waits_for_its_grammar(request) for request in unfinished)
            assert self.in_flight or waits, "nobody can run, for ever"
        while len(self.in_flight) > depth:
            self.update()

    def update(self) -> None:
        plan, tokens = self.in_flight.popleft()
        for step in range(plan.num_steps):
            before = {id(row.request): len(row.request.token_ids) for row in plan.rows}
            for sampled in self.scheduler.update(plan, tokens[step], step):
                assert plan.rows[sampled.row].request is sampled.request
                assert plan.rows[sampled.row].samples > step
                assert sampled.token == sampled.request.token_ids[-1]
                assert len(sampled.request.token_ids) == before[id(sampled.request)] + 1
                assert sampled.finish_reason == sampled.request.finish_reason

    @rule(times=st.integers(2, 12), depth=st.integers(0, 1))
    def steps_in_a_row(self, times: int, depth: int) -> None:
        for _ in range(times):
            self.step(depth)
            self.consistent()

    @precondition(lambda self: self.scheduler.requests)
    @rule(data=st.data(), reason=st.sampled_from(["abort", "stop"]))
    def end(self, data: st.DataObject, reason: str) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.scheduler.requests)))
        request = self.scheduler.requests[request_id]
        self.cut.add(request_id)
        if reason == "abort":
            assert self.scheduler.abort(request_id) is request
            assert self.scheduler.abort(request_id) is None
        else:
            self.scheduler.finish(request, "stop", "word")
            assert request.stop_reason == "word"
        assert request.finish_reason == reason

    @rule(running=st.booleans())
    def reset(self, running: bool) -> None:
        done = self.scheduler.reset_prefix_cache(running)
        assert done == (self.pool.num_free == self.pool.num_usable)
        assert done or not running
        assert not done or len(self.cache) == 0

    @invariant()
    def consistent(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        self.pool.check()
        scheduler = self.scheduler
        held = Counter(page for request in self.all for page in request.pages if page != NULL_PAGE)
        assert all(self.pool.references(page) == held[page] for page in range(self.pool.num_pages))
        running = [r for r in self.all if r.status is Status.RUNNING]
        waiting = [r for r in self.all if r.status in (Status.WAITING, Status.COMPILING)]
        assert (scheduler.num_running, scheduler.num_waiting) == (len(running), len(waiting))
        assert {r.request_id for r in running + waiting} == set(scheduler.requests)
        assert len({r.slot for r in running}) == len(running) <= scheduler.max_num_batched_tokens
        assert all(not r.pages and r.slot == -1 for r in self.all if r.status is not Status.RUNNING)
        assert all(r.num_computed_tokens == 0 for r in waiting)
        if scheduler.policy == "fcfs":
            new = [r for r in waiting if r.grammar is None and r.scheduled_time is None]
            begun = [r for r in self.all if r.grammar is None and r.scheduled_time is not None]
            overtaken = [sum(other.order > r.order for other in begun) for r in new]
            assert max(overtaken, default=0) <= MOST_OVERTAKING, "too many have overtaken"
        for request in self.all:
            page_size = scheduler.page_size
            for index, digest in enumerate(request.page_hashes):
                self.contents[digest] = request.token_ids[: (index + 1) * page_size]
        for page, digest in self.cache.entries().items():
            contents = self.contents.get(digest) or self.contents[digest[:-1]]  # the last byte may say which group
            assert self.device.pages[page] == contents[-scheduler.page_size :], "the cache is wrong"

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        limit = self.steps + 400 + 40 * sum(request.max_length for request in self.all)
        while self.scheduler.has_unfinished() or self.in_flight:
            self.grammars_are_ready()
            self.step(1)
            assert self.steps < limit, "somebody starves"
        self.consistent()
        for matcher, request in ((r.matcher, r) for r in self.all if r.matcher is not None):
            assert isinstance(matcher, FakeMatcher)
            assert matcher.tokens == request.output_token_ids, "the grammar has seen other tokens"
        for request in self.all:
            tokens, reason, stop = alone(request, VOCAB, self.scheduler.max_length)
            if request.request_id in self.cut:
                assert request.output_token_ids == tokens[: request.num_output_tokens]
            else:
                assert (request.output_token_ids, request.finish_reason, request.stop_reason) == (tokens, reason, stop)
        assert self.pool.num_free == self.pool.num_usable, "pages are lost"
        assert self.scheduler.reset_prefix_cache()
        if not self.cache.enabled:
            assert (self.cache.queries, self.cache.hits) == (0, 0)


def waits_for_its_grammar(request: Request) -> bool:
    return request.status is Status.COMPILING or (request.matcher is not None and request.matcher.mask is None)


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=120, stateful_step_count=30, deadline=None)
