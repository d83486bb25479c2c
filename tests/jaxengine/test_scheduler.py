"""The scheduler's rules, one at a time."""

from __future__ import annotations

import time
from typing import Any

import pytest
from fake_device import FakeDevice, alone

from jaxengine.newcomers import MOST_OVERTAKING
from jaxengine.pages import PagePool
from jaxengine.prefix_cache import PrefixCache
from jaxengine.request import InvalidRequest, Request, SamplingParams, Status, make_requests
from jaxengine.scheduler import Plan, Sampled, Scheduler

PAGE = 4


def build(num_pages: int = 100, *, caching: bool = True, **limits: Any) -> Scheduler:
    pool = PagePool(num_pages)
    cache = PrefixCache(pool, PAGE) if caching else None
    defaults = {"max_num_seqs": 8, "max_num_batched_tokens": 32, "max_model_len": 200, "page_size": PAGE}
    return Scheduler(pool, cache, **(defaults | limits))


def add(scheduler: Scheduler, name: str, length: int, first: int = 0, **fields: Any) -> Request:
    """A request with the prompt first, first + 1, …; fields of SamplingParams and Request alike."""
    names = "priority", "eos_token_ids", "arrival_time", "parent_id", "steps_alone"
    of_request = {name: fields.pop(name) for name in names if name in fields}
    params = SamplingParams(**({"max_tokens": 50} | fields))
    (request,) = make_requests(name, list(range(first, first + length)), params, **of_request)
    scheduler.add(request)
    return request


def rows(plan: Plan | None) -> list[tuple[str, int, int, bool]]:
    assert plan is not None
    return [(row.request.request_id, row.start, row.num_tokens, row.samples) for row in plan.rows]


def step(scheduler: Scheduler, token: int = 7) -> list[Sampled]:
    """One step that the host waits for."""
    plan = scheduler.schedule()
    assert plan is not None
    return scheduler.update(plan, [token] * len(plan.rows))


# -- batches ---------------------------------------------------------------------------------------------------------


def test_one_budget_for_prompts_and_decoding_with_one_token_rows_first() -> None:
    scheduler = build()
    add(scheduler, "a", 10)
    assert rows(scheduler.schedule()) == [("a", 0, 10, True)]
    add(scheduler, "b", 40, 100)
    plan = scheduler.schedule()
    assert rows(plan) == [("a", 10, 1, True), ("b", 0, 31, False)]
    assert plan is not None
    assert (plan.num_decode, plan.num_tokens) == (1, 32)
    add(scheduler, "c", 1, 300)
    assert rows(scheduler.schedule()) == [("a", 11, 1, True), ("c", 0, 1, True), ("b", 31, 9, True)]


def test_a_long_prompt_leaves_a_token_for_everybody_behind_it() -> None:
    scheduler = build(policy="priority", max_num_batched_tokens=10, long_prefill_token_threshold=10)
    for name in ("a", "b", "c"):
        add(scheduler, name, 2, 50 * ord(name))
    step(scheduler)
    add(scheduler, "long", 100, priority=-1)
    plan = scheduler.schedule()
    assert rows(plan)[-1] == ("long", 0, 7, False)
    plan = scheduler.schedule()  # now it is the first in order
    assert {row.request.request_id: row.num_tokens for row in plan.rows} == {"a": 1, "b": 1, "c": 1, "long": 7}


def test_the_long_prefill_threshold_lets_others_in() -> None:
    scheduler = build(long_prefill_token_threshold=8)
    add(scheduler, "a", 20)
    add(scheduler, "b", 5, 100)
    assert rows(scheduler.schedule()) == [("a", 0, 8, False), ("b", 0, 5, True)]
    assert rows(scheduler.schedule()) == [("b", 5, 1, True), ("a", 8, 8, False)]
    assert rows(scheduler.schedule()) == [("b", 6, 1, True), ("a", 16, 4, True)]


def test_page_updates_and_slots() -> None:
    scheduler = build()
    request = add(scheduler, "a", 6)
    (row,) = scheduler.schedule().rows
    assert (list(row.new_pages), list(row.places), row.admitted) == (request.pages, [0, 1], True)
    assert len(request.pages) == 2
    for _ in range(2):
        (row,) = scheduler.schedule().rows
        assert (list(row.new_pages), row.admitted) == ([], False)
    (row,) = scheduler.schedule().rows
    assert (row.start, list(row.new_pages), list(row.places)) == (8, request.pages[2:], [2])
    assert request.slot == 0
    assert add(scheduler, "b", 3, 50).slot == -1
    scheduler.schedule()
    assert scheduler.requests["b"].slot == 1
    scheduler.abort("a")
    add(scheduler, "c", 3, 90)
    scheduler.schedule()
    assert scheduler.requests["c"].slot == 0


def test_a_prompt_gets_its_pages_when_admitted_even_if_it_runs_in_chunks() -> None:
    scheduler = build(11, max_num_batched_tokens=8)
    long = add(scheduler, "long", 30)
    assert rows(scheduler.schedule()) == [("long", 0, 8, False)]
    assert len(long.pages) == 8
    add(scheduler, "next", 12, 100)
    for _ in range(3):
        assert scheduler.schedule() is not None
    assert scheduler.num_waiting == 1
    assert long.num_preemptions == 0


def test_no_more_sequences_than_slots() -> None:
    scheduler = build(max_num_seqs=2)
    for name in ("a", "b", "c"):
        add(scheduler, name, 2, 50 * ord(name))
    assert len(scheduler.schedule().rows) == 2
    assert (scheduler.num_running, scheduler.num_waiting) == (2, 1)
    scheduler.abort("a")
    assert (scheduler.num_running, scheduler.num_waiting) == (1, 1)
    assert [row.request.request_id for row in scheduler.schedule().rows] == ["b", "c"]


def test_nothing_to_do() -> None:
    scheduler = build()
    assert scheduler.schedule() is None
    assert not scheduler.has_unfinished()


# -- one step in flight ----------------------------------------------------------------------------------------------


def test_steps_are_planned_before_tokens_are_known_but_never_past_max_tokens() -> None:
    scheduler = build()
    request = add(scheduler, "a", 3, max_tokens=2)
    first, second = scheduler.schedule(), scheduler.schedule()
    assert rows(second) == [("a", 3, 1, True)]
    assert (request.num_in_flight, request.num_tokens, len(request.token_ids)) == (2, 5, 3)
    assert scheduler.schedule() is None
    assert [s.finish_reason for s in scheduler.update(first, [7])] == [None]
    assert scheduler.schedule() is None
    assert [s.finish_reason for s in scheduler.update(second, [8])] == ["length"]
    assert request.output_token_ids == [7, 8]
    assert scheduler.pool.usage == 0.0


def test_never_past_the_context_either() -> None:
    scheduler = build(max_model_len=5)
    request = add(scheduler, "a", 3, max_tokens=None)
    first, second = scheduler.schedule(), scheduler.schedule()
    assert scheduler.schedule() is None
    scheduler.update(first, [7])
    scheduler.update(second, [8])
    assert (request.finish_reason, len(request.token_ids)) == ("length", 5)


def test_a_context_that_the_pool_cannot_hold_ends_at_the_pool() -> None:
    scheduler = build(4, max_model_len=100)  # 12 tokens, and a thirteenth that is never fed back
    request = add(scheduler, "a", 11, max_tokens=None)
    while scheduler.has_unfinished():
        step(scheduler)
    assert (request.finish_reason, len(request.token_ids), request.num_preemptions) == ("length", 13, 0)


def test_late_tokens_of_a_finished_request_are_dropped() -> None:
    scheduler = build()
    request = add(scheduler, "a", 3, stop_token_ids=[9])
    first, second = scheduler.schedule(), scheduler.schedule()
    (stopped,) = scheduler.update(first, [9, 0])
    assert (stopped.finish_reason, stopped.stop_reason, stopped.row) == ("stop", 9, 0)
    assert scheduler.update(second, [5]) == []
    assert request.output_token_ids == [9]


def test_a_preempted_request_waits_for_its_token_and_keeps_it() -> None:
    scheduler = build(6, max_num_seqs=2)
    scheduler.headroom = 0.0
    first = add(scheduler, "a", 8)
    second = add(scheduler, "b", 8, 100)
    plan = scheduler.schedule()  # 2 pages each, 5 in all
    plan_2 = scheduler.schedule()  # position 8: "a" takes the fifth page, "b" has to go
    assert plan_2.preempted == [second]
    assert rows(plan_2) == [("a", 8, 1, True)]
    assert (second.pages, second.slot, second.status, second.epoch) == ([], -1, Status.WAITING, 1)
    assert plan.rows[1].epoch == 0
    scheduler.finish(first, "stop")  # pages enough, but b's token is still on its way
    assert scheduler.schedule() is None
    assert [s.request for s in scheduler.update(plan, [70, 71])] == [second]
    assert second.output_token_ids == [71]
    assert rows(scheduler.schedule()) == [("b", 8, 1, True)]  # its prompt was still in the cache
    assert second.num_cached_tokens == 0  # counts at the first admission only
    assert (scheduler.prefix_cache.queries, scheduler.prefix_cache.hits) == (16, 0)
    assert scheduler.num_preemptions == second.num_preemptions == 1


def test_a_preempted_request_can_finish_with_the_token_on_its_way() -> None:
    scheduler = build(6, max_num_seqs=2)
    scheduler.headroom = 0.0
    add(scheduler, "a", 8)
    second = add(scheduler, "b", 8, 100, stop_token_ids=[71])
    plan = scheduler.schedule()
    scheduler.schedule()
    scheduler.update(plan, [70, 71])
    assert (second.finish_reason, scheduler.num_waiting, scheduler.num_running) == ("stop", 0, 1)


# -- who goes first --------------------------------------------------------------------------------------------------


def test_the_last_one_is_preempted_and_comes_back_first() -> None:
    scheduler = build(13, caching=False)
    scheduler.headroom = 0.0
    for name in ("a", "b", "c"):
        add(scheduler, name, 15, 100 * ord(name))
    add(scheduler, "d", 2, 0)
    while not (plan := scheduler.schedule()).preempted:
        scheduler.update(plan, [7] * len(plan.rows))
    assert [r.request_id for r in plan.preempted] == ["c"]
    assert all(not row.admitted for row in plan.rows)
    scheduler.update(plan, [7] * len(plan.rows))
    scheduler.abort("a")
    plan = scheduler.schedule()
    assert [row.request.request_id for row in plan.rows if row.admitted] == ["c", "d"]


def test_priority_first_then_arrival() -> None:
    scheduler = build(policy="priority", max_num_seqs=1)
    for name, priority, arrival in (("late", 0, 2.0), ("low", 1, 0.0), ("early", 0, 1.0), ("high", -1, 9.0)):
        add(scheduler, name, 2, priority=priority, arrival_time=arrival, max_tokens=1)
    order = []
    while scheduler.has_unfinished():
        order += [s.request.request_id for s in step(scheduler)]
    assert order == ["high", "early", "late", "low"]


def test_the_lowest_priority_is_preempted_whenever_it_came() -> None:
    scheduler = build(12, policy="priority")
    scheduler.headroom = 0.0
    middle = add(scheduler, "middle", 12, priority=3, arrival_time=5.0)
    low = add(scheduler, "low", 8, 100, priority=5, arrival_time=0.0)
    step(scheduler)
    high = add(scheduler, "high", 16, 200, priority=0, arrival_time=9.0)
    plan = scheduler.schedule()
    assert {row.request for row in plan.rows} == {middle, low, high}
    scheduler.update(plan, [7] * 3)
    plan = scheduler.schedule()  # no page is left, and "high" wants one
    assert plan.preempted == [low]
    assert {row.request for row in plan.rows} == {middle, high}


def test_a_priority_under_fcfs_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"priority: 3 means nothing here; .*scheduling_policy='priority'"):
        add(build(), "a", 3, priority=3)


def test_a_request_that_waits_for_pages_is_passed_by_a_few_small_ones_and_no_more() -> None:
    scheduler = build(20, max_num_batched_tokens=64)
    scheduler.headroom = 0.0
    add(scheduler, "a", 20)
    step(scheduler)
    add(scheduler, "big", 60, 100)
    passed = 0
    for number in range(2 * MOST_OVERTAKING):
        add(scheduler, f"small {number}", 1, 300, max_tokens=1)
        passed += sum(s.request.request_id.startswith("small") for s in step(scheduler))
    assert passed == MOST_OVERTAKING
    scheduler.abort("a")
    assert ("big", 0, 48, 0) in rows(scheduler.schedule())  # those who wait get the rest of the step


def test_under_priority_only_equals_pass_each_other() -> None:
    scheduler = build(11, policy="priority")
    scheduler.headroom = 0.0
    add(scheduler, "a", 20)
    step(scheduler)
    add(scheduler, "big", 30, 100)
    add(scheduler, "less", 1, 300, priority=1)
    step(scheduler)
    assert scheduler.num_waiting == 2
    add(scheduler, "equal", 1, 400)
    step(scheduler)
    assert scheduler.num_waiting == 2


def test_a_long_prompt_leaves_a_part_of_each_step_to_those_who_wait() -> None:
    scheduler = build()
    add(scheduler, "long", 100)
    add(scheduler, "short", 5, 200)
    assert rows(scheduler.schedule()) == [("long", 0, 24, 0), ("short", 0, 5, 1)]
    assert rows(scheduler.schedule()) == [("short", 5, 1, 1), ("long", 24, 31, 0)]  # nobody waits any more


def test_newcomers_leave_room_for_those_who_run() -> None:
    scheduler = build(14)
    add(scheduler, "a", 4)
    step(scheduler)
    add(scheduler, "b", 32, 100)  # 8 of the 11 pages that are free, and 4 shall be left
    step(scheduler)
    assert scheduler.num_waiting == 1
    scheduler.abort("b")
    add(scheduler, "c", 28, 100)
    step(scheduler)
    assert scheduler.num_waiting == 0


def test_under_fcfs_everybody_is_served_however_many_come_after() -> None:
    scheduler = build(12, max_num_seqs=4, max_num_batched_tokens=8)
    device = FakeDevice(scheduler, 1000)
    made: list[Request] = []
    first_token_at: dict[str, int] = {}
    for now in range(600):
        if len(made) < 200 and now % 2 == 0:
            made += [
                add(scheduler, f"{now}-{i}", 1 + (now + i) % 30, 37 * len(made) % 900, max_tokens=9) for i in (0, 1)
            ]
        plan = scheduler.schedule()
        tokens = device.run(plan)
        for sampled in scheduler.update(plan, tokens[0]):
            first_token_at.setdefault(sampled.request.request_id, now)
    for _ in range(5000):
        if (plan := scheduler.schedule()) is not None:
            for sampled in scheduler.update(plan, device.run(plan)[0]):
                first_token_at.setdefault(sampled.request.request_id, 600 + _)
    served = [first_token_at[request.request_id] for request in made]
    overtaken = [sum(later < here for later in served[place:]) for place, here in enumerate(served)]
    assert max(overtaken) <= MOST_OVERTAKING, "first come, first served, but for a few small ones"
    assert all(request.output_token_ids == alone(request, 1000, 200)[0] for request in made)


def test_every_running_request_gets_a_token_in_every_step() -> None:
    scheduler = build(200, policy="priority", max_num_seqs=6, max_num_batched_tokens=6)
    for index in range(6):
        add(scheduler, str(index), 30, 100 * index, priority=-index)
    seen = 0
    for _ in range(40):
        plan = scheduler.schedule()
        assert len(plan.rows) >= seen
        assert len(plan.rows) == scheduler.num_running
        seen = len(plan.rows)
        scheduler.update(plan, [7] * len(plan.rows))


# -- ends ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "token", "reason", "stop_reason"),
    [
        ({}, 5, "stop", None),
        ({}, 6, "stop", None),
        ({}, 8, None, None),
        ({"ignore_eos": True}, 5, None, None),
        ({"stop_token_ids": [8]}, 8, "stop", 8),
        ({"stop_token_ids": [5]}, 5, "stop", None),
        ({"stop_token_ids": [5], "ignore_eos": True}, 5, "stop", 5),
        ({"min_tokens": 2}, 5, None, None),
        ({"min_tokens": 1}, 5, "stop", None),
        ({"min_tokens": 2, "stop_token_ids": [8]}, 8, None, None),
        ({"max_tokens": 1}, 8, "length", None),
        ({"max_tokens": 1}, 5, "stop", None),
        ({"max_tokens": 1, "stop_token_ids": [8]}, 8, "stop", 8),
    ],
)
def test_stops_in_their_order(params: dict[str, Any], token: int, reason: str | None, stop_reason: int | None) -> None:
    scheduler = build()
    request = add(scheduler, "a", 3, eos_token_ids=frozenset({5, 6}), **params)
    (sampled,) = step(scheduler, token)
    assert (sampled.finish_reason, sampled.stop_reason) == (reason, stop_reason)
    assert (request.finish_reason, request.stop_reason) == (reason, stop_reason)
    assert request.is_finished == (reason is not None)


def test_abort_running_waiting_and_unknown() -> None:
    scheduler = build(max_num_seqs=1)
    running, waiting = add(scheduler, "a", 3), add(scheduler, "b", 3)
    plan = scheduler.schedule()
    assert scheduler.abort("b") is waiting
    assert scheduler.abort("a") is running
    assert scheduler.abort("a") is None
    assert (running.finish_reason, waiting.finish_reason) == ("abort", "abort")
    assert (scheduler.num_running, scheduler.num_waiting, scheduler.has_unfinished()) == (0, 0, False)
    assert scheduler.pool.usage == 0.0
    assert scheduler.update(plan, [7]) == []
    assert scheduler.schedule() is None
    add(scheduler, "a", 3)  # the id is free again
    assert len(scheduler.schedule().rows) == 1


def test_what_can_never_run_is_refused() -> None:
    scheduler = build(4)  # 3 pages, 12 tokens
    with pytest.raises(InvalidRequest, match="prompt_token_ids: a prompt of 13 tokens; send 1 to 12 tokens"):
        add(scheduler, "a", 13)
    add(scheduler, "a", 12)
    with pytest.raises(InvalidRequest, match="request_id"):
        add(scheduler, "a", 3)
    assert len(scheduler.requests) == 1


def test_contradictory_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="max_num_batched_tokens"):
        build(max_num_batched_tokens=7)
    with pytest.raises(ValueError, match="'lifo' is unknown"):
        build(policy="lifo")
    pool = PagePool(9)
    with pytest.raises(ValueError, match="another pool or page size"):
        Scheduler(pool, PrefixCache(pool, 8), max_num_seqs=1, max_num_batched_tokens=8, max_model_len=8, page_size=PAGE)


# -- shared prefixes -------------------------------------------------------------------------------------------------


def test_a_request_of_the_same_batch_shares_the_pages_that_are_being_written() -> None:
    scheduler = build()
    first, second = add(scheduler, "a", 10), add(scheduler, "b", 10)
    plan = scheduler.schedule()
    assert rows(plan) == [("a", 0, 10, True), ("b", 8, 2, True)]
    assert second.pages[:2] == first.pages[:2]
    assert second.pages[2] != first.pages[2]
    assert list(plan.rows[1].new_pages) == second.pages
    assert (first.num_cached_tokens, second.num_cached_tokens) == (0, 8)
    assert (scheduler.prefix_cache.queries, scheduler.prefix_cache.hits) == (20, 8)


def test_a_chunk_is_shared_as_far_as_it_goes() -> None:
    scheduler = build(max_num_batched_tokens=16, long_prefill_token_threshold=9)
    add(scheduler, "a", 20)
    second = add(scheduler, "b", 20)
    assert rows(scheduler.schedule()) == [("a", 0, 9, False), ("b", 8, 7, False)]
    assert second.num_cached_tokens == 8
    third = add(scheduler, "c", 20)
    scheduler.schedule()  # "a" goes on to position 18
    assert third.num_cached_tokens == 16


def test_a_page_completed_by_a_token_in_flight_is_known_only_when_the_token_is() -> None:
    scheduler = build()
    request = add(scheduler, "a", 7)
    first = scheduler.schedule()
    second = scheduler.schedule()  # writes position 7 and so fills the second page
    assert len(scheduler.prefix_cache) == 1
    scheduler.update(first, [7])
    assert len(scheduler.prefix_cache) == 2
    assert scheduler.prefix_cache.entries() == dict(zip(request.pages, request.page_hashes, strict=True))
    again = add(scheduler, "b", 9)  # 0, 1, … 8: it begins like the prompt and the token 7
    scheduler.schedule()
    assert again.num_cached_tokens == 8
    scheduler.update(second, [1])


def test_a_finished_request_leaves_its_pages_to_be_found() -> None:
    scheduler = build()
    add(scheduler, "a", 10, max_tokens=1)
    step(scheduler)
    assert scheduler.pool.usage == 0.0
    again = add(scheduler, "b", 10)
    assert rows(scheduler.schedule()) == [("b", 8, 2, True)]
    assert again.num_cached_tokens == 8


def test_prompt_logprobs_need_the_whole_prompt_to_run() -> None:
    scheduler = build()
    add(scheduler, "a", 10, max_tokens=1)
    step(scheduler)
    scored = add(scheduler, "b", 10, prompt_logprobs=1)
    assert rows(scheduler.schedule()) == [("b", 0, 10, True)]
    assert scored.num_cached_tokens == 0
    assert scheduler.prefix_cache.queries == 10


def test_without_caching_only_siblings_share() -> None:
    scheduler = build(caching=False)
    for request in make_requests("a", list(range(10)), SamplingParams(n=2)):
        scheduler.add(request)
    for request in make_requests("b", list(range(10)), SamplingParams(n=2)):
        scheduler.add(request)
    add(scheduler, "c", 10)
    expected = [
        ("0_a", 0, 10, True),
        ("1_a", 8, 2, True),
        ("0_b", 0, 10, True),
        ("1_b", 8, 2, True),
        ("c", 0, 8, False),
    ]
    assert rows(scheduler.schedule()) == expected
    assert scheduler.requests["c"].page_hashes == []


def test_reset_waits_for_running_requests_or_preempts_them() -> None:
    scheduler = build()
    request = add(scheduler, "a", 10)
    plan = scheduler.schedule()
    assert not scheduler.reset_prefix_cache()
    assert scheduler.reset_prefix_cache(reset_running_requests=True)
    assert (scheduler.num_running, scheduler.num_waiting, len(scheduler.prefix_cache)) == (0, 1, 0)
    assert len(scheduler.update(plan, [77])) == 1
    assert rows(scheduler.schedule()) == [("a", 0, 11, True)]
    assert request.output_token_ids == [77]


def test_a_long_prompt_that_waits_is_not_looked_up_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = build(11)
    add(scheduler, "a", 20)
    step(scheduler)
    add(scheduler, "big", 30, 100)
    calls = []
    match = scheduler.prefix_cache.match
    monkeypatch.setattr(scheduler.prefix_cache, "match", lambda request: calls.append(request) or match(request))
    for _ in range(3):
        step(scheduler)
    assert len(calls) == 1


# -- the cost of a long line -----------------------------------------------------------------------------------------


def test_the_cost_of_a_step_and_an_abort_does_not_grow_with_the_line() -> None:
    def seconds(waiting: int) -> float:
        scheduler = build(max_num_seqs=4)
        for index in range(waiting):
            add(scheduler, str(index), 2)
        step(scheduler)
        best = 1.0
        for index in range(20):
            start = time.perf_counter()
            step(scheduler)
            scheduler.abort(str(waiting - 1 - index))
            best = min(best, time.perf_counter() - start)
        return best

    assert seconds(20_000) < 10 * seconds(200)


def test_aborted_requests_do_not_pile_up_in_the_line() -> None:
    scheduler = build(max_num_seqs=1)
    add(scheduler, "a", 2)
    step(scheduler)
    add(scheduler, "first", 2)
    for index in range(5000):
        add(scheduler, str(index), 2)
        scheduler.abort(str(index))
    assert scheduler.num_waiting == 1
    assert len(scheduler._line._entries) < 200


# -- padding ---------------------------------------------------------------------------------------------------------


def padded(**limits: Any) -> Scheduler:
    scheduler = build(token_sizes=(8, 16, 32), **limits)
    scheduler.most_padding = 3
    return scheduler


def test_a_step_that_would_mostly_be_padding_leaves_the_end_of_a_prompt_to_the_next() -> None:
    scheduler = padded()
    request = add(scheduler, "a", 20)
    assert rows(scheduler.schedule()) == [("a", 0, 16, False)]
    assert (request.num_computed_tokens, request.num_in_flight) == (16, 0)
    assert rows(scheduler.schedule()) == [("a", 16, 4, True)]  # the smallest size: nothing to cut to
    assert rows(scheduler.schedule()) == [("a", 20, 1, True)]


@pytest.mark.parametrize("length", [5, 8, 13, 16, 29, 32])
def test_a_little_padding_is_not_worth_a_step(length: int) -> None:
    scheduler = padded()
    add(scheduler, "a", length)
    assert rows(scheduler.schedule()) == [("a", 0, length, True)]


def test_a_chunk_that_is_too_short_to_cut_stays_whole() -> None:
    scheduler = padded()
    add(scheduler, "a", 15)
    add(scheduler, "b", 3, 100)
    assert rows(scheduler.schedule()) == [("a", 0, 15, True), ("b", 0, 3, True)]


def test_what_is_cut_off_is_not_in_the_prefix_cache_until_it_is_computed() -> None:
    scheduler = padded()
    request = add(scheduler, "a", 20)
    scheduler.schedule()
    scheduler.abort("a")
    add(scheduler, "b", 21)
    assert rows(scheduler.schedule()) == [("b", 16, 5, True)]
    assert request.num_computed_tokens == 0


def test_a_chunk_whose_pages_are_shared_already_is_not_cut() -> None:
    scheduler = padded()
    add(scheduler, "a", 20)
    add(scheduler, "b", 21)  # finds all five pages of a, computed in the same step
    assert rows(scheduler.schedule()) == [("b", 20, 1, True), ("a", 0, 20, True)]


# -- several steps a dispatch ----------------------------------------------------------------------------------------


def test_several_steps_go_out_at_once_while_nobody_waits() -> None:
    scheduler = build(num_steps=4, num_steps_rows=2)
    add(scheduler, "a", 5, max_tokens=11)
    add(scheduler, "b", 6, first=50, max_tokens=3)
    prompts, plan = scheduler.schedule(), scheduler.schedule()
    assert plan is not None
    assert plan.num_steps == 4
    assert rows(plan) == [("a", 5, 1, 4), ("b", 6, 1, 2)]  # "b" has two tokens left after its first
    assert [len(row.new_pages) for row in plan.rows] == [1, 0]  # positions 5 to 8 and 6 to 7, of pages of 4
    assert prompts is not None
    assert prompts.num_steps == 1
    following = scheduler.schedule()  # both steps' tokens are still on the device
    assert rows(following) == [("a", 9, 1, 4)]
    scheduler.update(prompts, [1, 2])
    ended = [s for step, t in enumerate([[3, 4], [5, 6], [7, 0], [8, 0]]) for s in scheduler.update(plan, t, step)]
    assert [(s.request.request_id, s.token, s.finish_reason) for s in ended] == [
        ("a", 3, None), ("b", 4, None), ("a", 5, None), ("b", 6, "length"), ("a", 7, None), ("a", 8, None),
    ]  # fmt: skip
    assert rows(scheduler.schedule()) == [("a", 13, 1, 1)]  # two tokens are left: no run of four for them
    add(scheduler, "c", 3)
    assert rows(scheduler.schedule()) == [("a", 14, 1, 1), ("c", 0, 3, 1)]


@pytest.mark.parametrize("why", ["many rows", "somebody waits", "needs its steps alone", "few pages"])
def test_single_steps_where_several_would_harm(why: str) -> None:
    scheduler = build(
        5 if why == "few pages" else 100,
        caching=False,
        num_steps=4,
        num_steps_rows=1 if why == "many rows" else 2,
        max_num_seqs=2,
    )
    requests = [add(scheduler, name, 8, steps_alone=why == "needs its steps alone") for name in "ab"]
    if why == "somebody waits":
        add(scheduler, "c", 8)
    step(scheduler)
    plan = scheduler.schedule()
    assert plan is not None
    assert plan.num_steps == 1
    if why == "many rows":
        scheduler.finish(requests[0], "abort")
        plan = scheduler.schedule()
        assert plan is not None
        assert plan.num_steps == 4


def test_a_stop_token_ends_a_request_between_two_steps_of_a_dispatch() -> None:
    scheduler = build(num_steps=4, num_steps_rows=8)
    request = add(scheduler, "a", 5, stop_token_ids=[9])
    step(scheduler)
    first, second = scheduler.schedule(), scheduler.schedule()
    assert first is not None
    assert second is not None
    taken = [s for step, token in enumerate((7, 9, 8, 8)) for s in scheduler.update(first, [token], step)]
    assert [(s.token, s.finish_reason) for s in taken] == [(7, None), (9, "stop")]
    assert not any(scheduler.update(second, [8], step) for step in range(4))
    assert request.output_token_ids == [7, 7, 9]
    assert scheduler.pool.num_free == scheduler.pool.num_usable
