"""Requests with a grammar: they wait for it beside the line, and each of their rows for the token before."""

from __future__ import annotations

from typing import Any

import pytest
from fake_grammar import FakeGrammar

from jaxengine.pages import PagePool
from jaxengine.request import InvalidRequest, Request, SamplingParams, Status, make_requests
from jaxengine.scheduler import Plan, Scheduler

PAGE = 4


def build(num_pages: int = 100, **limits: Any) -> Scheduler:
    defaults = {"max_num_seqs": 8, "max_num_batched_tokens": 32, "max_model_len": 200, "page_size": PAGE}
    return Scheduler(PagePool(num_pages), None, **(defaults | limits))


def add(scheduler: Scheduler, name: str, grammar: FakeGrammar | None = None, length: int = 3, **fields: Any) -> Request:
    params = SamplingParams(**({"max_tokens": 50} | fields))
    future = None if grammar is None else grammar.future
    (request,) = make_requests(
        name, [ord(name)] * length, params, eos_token_ids=frozenset({0}), grammar=future, steps_alone=future is not None
    )
    scheduler.add(request)
    return request


def names(plan: Plan | None) -> str:
    return "" if plan is None else "".join(row.request.request_id for row in plan.rows)


def update(scheduler: Scheduler, plan: Plan | None, token: int = 7) -> list[tuple[str | None, bool]]:
    assert plan is not None
    return [(s.finish_reason, s.complete) for s in scheduler.update(plan, [token] * len(plan.rows))]


def test_others_pass_while_a_grammar_compiles_and_it_goes_where_it_came() -> None:
    scheduler, grammar = build(max_num_seqs=2), FakeGrammar()
    request = add(scheduler, "g", grammar)
    add(scheduler, "a")
    assert request.status is Status.COMPILING
    assert (scheduler.num_waiting, scheduler.has_unfinished()) == (2, True)
    assert names(scheduler.schedule()) == "a"
    for name in "bcd":
        add(scheduler, name)
    assert names(scheduler.schedule()) == "ab"
    grammar.compile()
    scheduler.abort("a")
    assert names(scheduler.schedule()) == "bg"  # b decodes, and g is older than c and d
    assert (scheduler.num_running, scheduler.num_waiting) == (2, 2)


def test_a_row_waits_for_its_token_and_its_mask_while_others_go_on() -> None:
    scheduler, grammar = build(), FakeGrammar()
    grammar.compile()
    add(scheduler, "g", grammar)
    add(scheduler, "a")
    first = scheduler.schedule()
    assert names(first) == "ga"
    second = scheduler.schedule()
    assert names(second) == "a"
    update(scheduler, first)
    third = scheduler.schedule()
    assert names(third) == "a"  # its mask is being written
    grammar.matchers[0].write()
    fourth = scheduler.schedule()
    assert names(fourth) == "ga"
    for plan in (second, third, fourth):
        update(scheduler, plan)
    assert grammar.matchers[0].tokens == [7, 7]


def test_alone_it_steps_without_a_pipeline() -> None:
    scheduler, grammar = build(num_steps=4, num_steps_rows=8), FakeGrammar()
    grammar.compile()
    request = add(scheduler, "g", grammar, length=40)
    chunk, last = scheduler.schedule(), scheduler.schedule()  # a prompt's chunks need no token
    assert [row.samples for plan in (chunk, last) for row in plan.rows] == [0, 1]
    assert scheduler.schedule() is None
    update(scheduler, chunk)
    assert scheduler.schedule() is None
    update(scheduler, last)
    assert scheduler.schedule() is None
    grammar.matchers[0].write()
    plan = scheduler.schedule()
    assert (names(plan), plan.num_steps) == ("g", 1)
    assert request.num_in_flight == 1


def test_n_sequences_have_a_matcher_each() -> None:
    scheduler, grammar = build(), FakeGrammar()
    for request in make_requests("g", [1, 2], SamplingParams(n=3), grammar=grammar.future):
        scheduler.add(request)
    grammar.compile()
    assert len(scheduler.schedule().rows) == len({id(matcher) for matcher in grammar.matchers}) == 3


@pytest.mark.parametrize(
    ("ends", "token", "fields", "reason", "complete"),
    [
        ({1: "stop"}, 7, {}, "stop", True),  # complete: there is no token after it to wait for
        ({1: "stop"}, 7, {"min_tokens": 5}, "stop", True),  # and none that could follow
        ({1: "stop"}, 7, {"max_tokens": 1}, "stop", True),
        ({1: "stop"}, 0, {}, "stop", False),
        ({}, 7, {"max_tokens": 1}, "length", False),
        ({}, 7, {"stop_token_ids": [7]}, "stop", False),
        ({1: "error"}, 0, {}, "error", False),  # a matcher in an error allows nothing but the end
    ],
)
def test_how_it_ends(ends: dict[int, str], token: int, fields: dict[str, Any], reason: str, complete: bool) -> None:
    scheduler, grammar = build(), FakeGrammar(ends)
    grammar.compile()
    request = add(scheduler, "g", grammar, **fields)
    assert update(scheduler, scheduler.schedule(), token) == [(reason, complete)]
    assert request.finish_reason == reason
    assert not scheduler.has_unfinished()
    assert scheduler.pool.usage == 0.0


def test_a_grammar_that_cannot_be_compiled_ends_its_requests_alone() -> None:
    scheduler, grammar = build(), FakeGrammar()
    error = InvalidRequest("structured_outputs", "no grammar", "use another")
    request, other = add(scheduler, "g", grammar), add(scheduler, "a")
    grammar.compile(error)
    assert names(scheduler.schedule()) == "a"
    assert scheduler.take_refused() == [(request, error)]
    assert scheduler.take_refused() == []
    assert (request.finish_reason, other.finish_reason, scheduler.num_waiting) == ("error", None, 0)


def test_abort_while_compiling() -> None:
    scheduler, grammar = build(), FakeGrammar()
    request = add(scheduler, "g", grammar)
    assert scheduler.abort("g") is request
    assert (scheduler.num_waiting, scheduler.has_unfinished()) == (0, False)
    grammar.compile()
    assert scheduler.schedule() is None
    assert scheduler.take_refused() == []


def test_preempted_it_keeps_its_place_in_the_grammar_and_comes_back_when_its_mask_is_there() -> None:
    scheduler, grammar = build(7), FakeGrammar()
    scheduler.headroom = 0.0
    grammar.compile()
    add(scheduler, "a", length=11)
    request = add(scheduler, "g", grammar, length=11)
    plans = [scheduler.schedule()]
    while not request.num_preemptions:
        plans.append(scheduler.schedule())
    for plan in plans:
        update(scheduler, plan)
    assert grammar.matchers[0].tokens == request.output_token_ids == [7]
    scheduler.abort("a")
    assert scheduler.schedule() is None
    grammar.matchers[0].write()
    assert names(scheduler.schedule()) == "g"
    assert len(grammar.matchers) == 1


def test_a_sequence_that_has_tokens_already_goes_on_after_them() -> None:
    scheduler, grammar = build(), FakeGrammar()
    (request,) = make_requests("g", [1, 2], SamplingParams(), grammar=grammar.future)
    request.token_ids += [5, 6]
    scheduler.add(request)
    grammar.compile()
    assert names(scheduler.schedule()) == "g"
    assert grammar.matchers[0].tokens == [5, 6]
