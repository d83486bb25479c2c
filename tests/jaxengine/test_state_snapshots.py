"""Kept states of recurrent layers: whoever goes on from one has the state of exactly the tokens before it."""

from __future__ import annotations

import random
from typing import Any

import pytest

from jaxengine.pages import PagePool
from jaxengine.plan import Plan
from jaxengine.prefix_cache import PrefixCache
from jaxengine.request import Request, SamplingParams
from jaxengine.scheduler import Scheduler
from jaxengine.state_snapshots import StateSnapshots

PAGE = 4


class States:
    """A device whose recurrent state is the list of all tokens that a slot has seen."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.slots: dict[int, list[int]] = {}
        self.kept: dict[int, list[int]] = {}
        self.computed = self.resumed = 0

    def run(self, plan: Plan) -> None:
        for row in plan.rows:
            if row.restore is not None:
                assert row.admitted
                self.slots[row.request.slot] = list(self.kept[row.restore])
                self.resumed += row.start
        for row in plan.rows:
            tokens, slot = row.request.token_ids, row.request.slot
            state = [] if row.start == 0 else self.slots[slot]
            assert state == tokens[: row.start]
            self.slots[slot] = state + tokens[row.start : row.start + row.num_tokens]
            self.computed += row.num_tokens
        for row in plan.rows:
            if row.save is not None:
                assert len(self.slots[row.request.slot]) % PAGE == 0
                self.kept[row.save] = list(self.slots[row.request.slot])
        self.scheduler.update(plan, [7] * len(plan.rows))


def scheduler(count: int = 4, pages: int = 200, least_tokens: int = 1, **sizes: Any) -> Scheduler:
    pool = PagePool(pages)
    cache = PrefixCache(pool, PAGE)
    sizes = {"max_num_seqs": 4, "max_num_batched_tokens": 64, "max_model_len": 200} | sizes
    return Scheduler(
        pool, cache, page_size=PAGE, snapshots=StateSnapshots(cache, count, least_tokens=least_tokens), **sizes
    )


def request(name: str, tokens: list[int], max_tokens: int = 2, **fields: Any) -> Request:
    return Request(name, tokens, SamplingParams(max_tokens=max_tokens, ignore_eos=True), **fields)


def finish_all(engine: Scheduler, states: States) -> None:
    while engine.has_unfinished():
        plan = engine.schedule()
        assert plan is not None
        states.run(plan)


def serve(engine: Scheduler, states: States, tokens: list[int], **fields: Any) -> Request:
    made = request(f"r{engine._num_added}", tokens, **fields)
    engine.add(made)
    finish_all(engine, states)
    return made


def kept(engine: Scheduler) -> int:
    assert engine.snapshots is not None
    return engine.snapshots.num_kept


def test_the_same_prompt_goes_on_from_its_last_full_page() -> None:
    engine = scheduler()
    states = States(engine)
    prompt = list(range(100, 123))  # five pages and three tokens
    assert serve(engine, states, prompt).num_cached_tokens == 0
    assert kept(engine) == 1
    assert serve(engine, states, prompt).num_cached_tokens == 20
    assert serve(engine, states, [*prompt, 1, 2, 3]).num_cached_tokens == 20
    assert serve(engine, states, prompt[:20]).num_cached_tokens == 0  # its last token must run, from page four on


def test_where_two_prompts_part_the_third_goes_on() -> None:
    engine = scheduler()
    states = States(engine)
    common = list(range(100, 116))
    assert [
        serve(engine, states, [*common, *[index] * 9]).num_cached_tokens for index in range(3)
    ] == [0, 0, 16]  # fmt: skip


def test_a_state_is_found_by_later_plans_alone() -> None:
    """Three equal prompts at once: nobody can go on from what the same step computes."""
    engine = scheduler()
    states = States(engine)
    prompt = list(range(50))
    for name in "abc":
        engine.add(request(name, prompt))
    finish_all(engine, states)
    assert states.resumed in (0, 48)  # the one that came in a step later may


def test_other_keys_find_nothing() -> None:
    engine = scheduler()
    states = States(engine)
    prompt = list(range(23))
    serve(engine, states, prompt, cache_salt="mine")
    assert serve(engine, states, prompt).num_cached_tokens == 0
    assert serve(engine, states, prompt, cache_salt="mine").num_cached_tokens == 20


def test_the_least_recently_used_is_replaced() -> None:
    engine = scheduler(count=2)
    states = States(engine)
    a, b, c = ([index, *range(20)] for index in range(100, 103))
    serve(engine, states, a)
    serve(engine, states, b)
    assert serve(engine, states, a).num_cached_tokens == 20
    serve(engine, states, c)
    assert serve(engine, states, a).num_cached_tokens == 20
    assert serve(engine, states, b).num_cached_tokens == 0


def test_short_ways_are_computed_again() -> None:
    engine = scheduler(least_tokens=32)
    states = States(engine)
    serve(engine, states, list(range(23)))
    assert kept(engine) == 0
    serve(engine, states, list(range(40)))
    assert kept(engine) == 1


def test_reset_forgets_states_too() -> None:
    engine = scheduler()
    states = States(engine)
    serve(engine, states, list(range(23)))
    assert engine.reset_prefix_cache()
    assert serve(engine, states, list(range(23))).num_cached_tokens == 0


@pytest.mark.parametrize("seed", range(6))
def test_traffic(seed: int) -> None:
    """Prompts from a tree, few pages, few states, preemption: every row's state is of its own tokens."""
    source = random.Random(seed)
    engine = scheduler(
        count=source.choice([1, 2, 5]), pages=source.choice([30, 60]), max_num_batched_tokens=source.choice([9, 40]),
        token_sizes=(8, 16, 40), max_model_len=80,
    )  # fmt: skip
    engine.most_padding = 2
    states = States(engine)
    trunk = [source.randrange(5) for _ in range(48)]
    for index in range(60):
        tail = [source.randrange(5) for _ in range(source.randrange(1, 20))]
        prompt = trunk[: source.choice([0, 7, 16, 33, 48])] + tail
        engine.add(request(f"q{index}", prompt, max_tokens=source.randrange(1, 9)))
        for _ in range(source.randrange(4)):
            if plan := engine.schedule():
                states.run(plan)
    finish_all(engine, states)
    assert states.resumed > 0
    assert engine.pool.num_free == engine.pool.num_usable
