"""What sequences hold of layers with and without windows, and what they give back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxengine.kv_groups import KvGroups
from jaxengine.page_tables import PageTables
from jaxengine.pages import NULL_PAGE, PagePool
from jaxengine.request import Request, SamplingParams

PAGE = 4


def tables(groups: KvGroups, pages: int = 100, chunk: int = 8) -> PageTables:
    return PageTables(PagePool(pages), PAGE, groups, chunk)


def request(tokens: int) -> Request:
    return Request("r", list(range(tokens)), SamplingParams())


def grow(its: PageTables, request: Request, start: int, end: int) -> list[int]:
    missing = its.missing(request, start, end)
    return its.fill(request, missing, end)


def test_layers_that_see_everything_get_the_whole_prompt_at_once() -> None:
    its, one = tables(KvGroups()), request(30)
    assert its.begin(one, [], 0)
    assert (len(one.pages), one.covered) == (8, 8)
    assert list(its.missing(one, 30, 33)) == [8]
    its.give_up(one)
    assert its.pool.num_free == its.pool.num_usable


def test_a_window_holds_what_it_shows() -> None:
    its, one = tables(KvGroups((6,))), request(30)
    assert its.begin(one, [], 0)
    assert set(one.pages) == {NULL_PAGE}
    for start in range(0, 24, 8):
        grow(its, one, start, start + 8)
        first = max(0, start - 5) // PAGE  # position `start` sees five keys before it
        assert [page != NULL_PAGE for page in one.pages] == [first <= i < (start + 8) // PAGE for i in range(8)]
    its.give_up(one)
    assert its.pool.num_free == its.pool.num_usable


def test_groups_lie_side_by_side() -> None:
    its, one = tables(KvGroups((None, 5))), request(16)
    assert its.begin(one, [], 0)
    assert [page == NULL_PAGE for page in one.pages] == [False, True] * 4
    grow(its, one, 0, 8)
    assert [page == NULL_PAGE for page in one.pages] == [False] * 4 + [False, True] * 2
    grow(its, one, 8, 16)
    assert [page == NULL_PAGE for page in one.pages] == [False, True] + [False] * 6  # position 8 sees from 4 on
    assert its.missing(one, 16, 17) == [8, 9]
    its.give_up(one)
    assert its.pool.num_free == its.pool.num_usable


def test_no_room_changes_nothing() -> None:
    its, one = tables(KvGroups((None, 5)), pages=8), request(16)
    needed = its.groups.most_pages(16, PAGE, 8)
    assert not its.begin(one, [], its.pool.num_free - needed + 1)
    assert (one.pages, its.pool.num_free) == ([], its.pool.num_usable)
    assert its.begin(one, [], its.pool.num_free - needed)


WINDOWS = st.lists(st.one_of(st.none(), st.integers(1, 40)), min_size=1, max_size=4).map(tuple)


@given(windows=WINDOWS, tokens=st.integers(1, 120), chunk=st.integers(1, 30), size=st.sampled_from([1, 4, 16]))
def test_the_most_pages_are_the_most(windows: tuple[int | None, ...], tokens: int, chunk: int, size: int) -> None:
    groups = KvGroups(windows)
    its, one = PageTables(PagePool(10_000), size, groups, chunk), request(tokens)
    most = groups.most_pages(tokens, size, chunk)
    assert its.begin(one, [], 0)
    for start in range(0, tokens, chunk):
        end = min(start + chunk, tokens)
        if end > one.covered * size:
            grow(its, one, start, end)
        for group in range(groups.count):
            seen = range(groups.first_place(group, start, size), -(-end // size))
            assert all(one.pages[place * groups.count + group] != NULL_PAGE for place in seen)
        assert its.pool.num_usable - its.pool.num_free <= most


@given(windows=WINDOWS, pages=st.integers(0, 80), chunk=st.integers(1, 30), at_most=st.integers(1, 500))
def test_the_longest_is_the_longest(windows: tuple[int | None, ...], pages: int, chunk: int, at_most: int) -> None:
    groups = KvGroups(windows)
    longest = groups.longest(pages, PAGE, chunk, at_most)
    assert longest <= at_most
    assert groups.most_pages(longest, PAGE, chunk) <= pages
    if longest < at_most:
        assert groups.most_pages(longest + PAGE, PAGE, chunk) > pages


@pytest.mark.parametrize(("start", "place"), [(0, 0), (5, 0), (8, 0), (9, 1), (12, 1), (13, 2)])
def test_the_first_place_that_is_seen(start: int, place: int) -> None:
    assert KvGroups((None, 6)).first_place(1, start, PAGE) == place
    assert KvGroups((None, 6)).first_place(0, start, PAGE) == 0
