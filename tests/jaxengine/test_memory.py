"""The memory plan: what is left becomes pages, and a plan that does not fit names the knob and the number."""

from __future__ import annotations

import dataclasses

import pytest

from jaxengine.memory import MemoryPlan, OutOfMemory, plan_pages

PLAN = MemoryPlan(
    device_bytes=1_000_000,
    limit=900_000,
    weights=300_000,
    state=50_000,
    programs=50_000,
    page_bytes=1_000,
    page_size=16,
    num_pages=0,
    max_model_len=1_600,
    chunk=512,
)
DEFAULTS = {"platform": "gpu", "max_num_seqs": 8, "override": None, "kv_cache_memory_bytes": None, "auto": False}


def test_the_pool_takes_exactly_what_is_left() -> None:
    plan = plan_pages(PLAN, **DEFAULTS)
    assert plan.num_pages == 500
    assert plan.total == plan.limit
    assert plan.pool_tokens == 499 * 16


def test_a_request_that_does_not_fit_names_max_model_len_and_the_number_that_would() -> None:
    with pytest.raises(OutOfMemory, match=r"max_model_len.*at most 7,984") as error:
        plan_pages(dataclasses.replace(PLAN, max_model_len=8_000), **DEFAULTS)
    assert error.value.field == "max_model_len"
    assert plan_pages(dataclasses.replace(PLAN, max_model_len=7_984), **DEFAULTS).num_pages == 500


def test_auto_takes_the_longest_that_fits() -> None:
    plan = plan_pages(dataclasses.replace(PLAN, max_model_len=100_000), **(DEFAULTS | {"auto": True}))
    assert plan.max_model_len == 499 * 16


def test_no_room_at_all_names_gpu_memory_utilization() -> None:
    with pytest.raises(OutOfMemory) as error:
        plan_pages(dataclasses.replace(PLAN, weights=899_000), **DEFAULTS)
    assert error.value.field == "gpu_memory_utilization"


@pytest.mark.parametrize(
    ("knob", "value", "needed", "field"),
    [
        ("override", 50, 101, "num_gpu_blocks_override"),
        ("kv_cache_memory_bytes", 50_000, 101_000, "kv_cache_memory_bytes"),
    ],
)
def test_an_explicit_pool_that_is_too_small_is_refused(knob: str, value: int, needed: int, field: str) -> None:
    with pytest.raises(OutOfMemory, match=f"at least {needed:,}, or set max_model_len to at most 784 ") as error:
        plan_pages(PLAN, **(DEFAULTS | {knob: value}))
    assert error.value.field == field
    assert plan_pages(PLAN, **(DEFAULTS | {knob: needed})).num_pages == 101
    assert plan_pages(dataclasses.replace(PLAN, max_model_len=784), **(DEFAULTS | {knob: value})).num_pages == 50
    with pytest.raises(OutOfMemory, match=f"use at least {needed:,}$"):
        plan_pages(PLAN, **(DEFAULTS | {knob: 0}))


@pytest.mark.parametrize(
    ("knob", "value", "field"),
    [("override", 501, "num_gpu_blocks_override"), ("kv_cache_memory_bytes", 501_000, "kv_cache_memory_bytes")],
)
def test_an_explicit_pool_that_is_too_large_is_refused(knob: str, value: int, field: str) -> None:
    with pytest.raises(OutOfMemory, match="at most 500 pages") as error:
        plan_pages(PLAN, **(DEFAULTS | {knob: value}))
    assert error.value.field == field
    assert plan_pages(PLAN, **(DEFAULTS | {knob: value * 400 // 501})).num_pages == 400


def test_on_a_cpu_the_pool_is_no_larger_than_the_requests_can_use() -> None:
    plan = plan_pages(dataclasses.replace(PLAN, max_model_len=160), **(DEFAULTS | {"platform": "cpu"}))
    assert plan.num_pages == 8 * 10 + 1


@pytest.mark.parametrize(("gib", "held"), [(1.5, 1.5), (3.0, 2.0), (4.0, 2.0), (4.5, 4.5)])
def test_pages_of_eight_bits_are_as_many_as_kernels_can_count(gib: float, held: float) -> None:
    """Per array, in GiB: what 32 bits cannot count is not used, unless there is so much that 64 are."""
    page = 1 << 10
    free = int(gib * (1 << 30)) // page * PLAN.page_bytes
    plan = dataclasses.replace(PLAN, limit=PLAN.weights + PLAN.state + PLAN.programs + free, narrow_page_bytes=page)
    planned = plan_pages(plan, **DEFAULTS)
    assert planned.num_pages == int(held * (1 << 30)) // page - (held == 2.0)


def test_recurrent_states_that_leave_no_room_name_max_num_seqs() -> None:
    recurrent = dataclasses.replace(PLAN, state=8 * 60_000, slot_bytes=60_000)  # 70 pages left of the 101 needed
    with pytest.raises(OutOfMemory, match="at most 7; or max_model_len: set it to at most 1,104") as error:
        plan_pages(recurrent, **DEFAULTS)
    assert error.value.field == "max_num_seqs"
    plan_pages(dataclasses.replace(recurrent, state=7 * 60_000), **(DEFAULTS | {"max_num_seqs": 7}))
    with pytest.raises(OutOfMemory) as error:  # no number of sequences would do
        plan_pages(dataclasses.replace(recurrent, weights=899_000), **DEFAULTS)
    assert error.value.field == "gpu_memory_utilization"


def test_without_pages_the_pool_costs_nothing_and_holds_every_sequence() -> None:
    plan = plan_pages(dataclasses.replace(PLAN, page_bytes=0), **DEFAULTS)
    assert (plan.num_pages, plan.pool) == (8 * 100 + 1, 0)


def test_the_table_shows_every_item_and_their_sum() -> None:
    table = plan_pages(PLAN, **DEFAULTS).table()
    for word in ("weights", "programs", "state", "KV pool", "500 pages of 16 = 7,984 tokens", "1,600 tokens"):
        assert word in table
