"""The pool: references, the order in which pages are lost, and its invariants under any traffic."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from jaxengine.pages import NULL_PAGE, PagePool


def test_the_null_page_is_never_handed_out() -> None:
    pool = PagePool(5)
    assert pool.num_free == pool.num_usable == 4
    assert sorted(pool.allocate(4)) == [1, 2, 3, 4]
    assert pool.usage == 1.0
    with pytest.raises(ValueError, match="1 pages wanted, 0 free"):
        pool.allocate(1)
    assert NULL_PAGE not in pool.free_pages()


def test_a_pool_needs_a_page() -> None:
    with pytest.raises(ValueError, match="use at least 2"):
        PagePool(1)


def test_the_tail_of_a_sequence_is_lost_first_and_the_longest_unused_sequence_before_the_newer() -> None:
    pool = PagePool(7)
    old, new = pool.allocate(3), pool.allocate(3)
    for page in old + new:
        pool.keep(page)
    pool.free(old)
    pool.free(new)
    assert pool.free_pages() == old[::-1] + new[::-1]
    pool.touch([old[2]])
    pool.free([old[2]])
    assert pool.free_pages()[-1] == old[2]


def test_pages_that_hold_nothing_useful_go_before_kept_ones() -> None:
    pool = PagePool(5)
    first, second = pool.allocate(2), pool.allocate(2)
    pool.keep(first[0])
    pool.free(first)
    pool.free(second)
    assert pool.free_pages()[-1] == first[0]
    pool.drop(first[0])
    assert pool.free_pages()[0] == first[0]
    pool.check()


def test_eviction_is_told_once_and_only_for_kept_pages() -> None:
    pool, evicted = PagePool(4), []
    pool.on_evict = evicted.append
    pages = pool.allocate(3)
    pool.keep(pages[1])
    pool.free(pages)
    pool.allocate(3)
    assert evicted == [pages[1]]


def test_a_shared_page_is_free_when_its_last_owner_leaves() -> None:
    pool = PagePool(3)
    pages = pool.allocate(1)
    pool.touch(pages)
    pool.free(pages)
    assert pool.num_free == 1
    pool.free(pages)
    assert pool.num_free == 2
    with pytest.raises(ValueError, match="free already"):
        pool.free(pages)


class PoolTraffic(RuleBasedStateMachine):
    """Against the plainest possible account of who holds what."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = PagePool(12)
        self.kept: set[int] = set()
        self.pool.on_evict = self.kept.remove
        self.held: list[list[int]] = []

    @rule(count=st.integers(0, 5))
    def allocate(self, count: int) -> None:
        if count <= self.pool.num_free:
            expected = self.pool.free_pages()[:count]
            assert self.pool.allocate(count) == expected
            self.held.append(expected)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        self.pool.free(self.held.pop(data.draw(st.integers(0, len(self.held) - 1))))

    @rule(data=st.data())
    def touch(self, data: st.DataObject) -> None:
        readable = sorted(self.kept | {page for pages in self.held for page in pages})
        if readable:
            pages = data.draw(st.lists(st.sampled_from(readable), unique=True))
            before = self.pool.num_free - self.pool.num_unused(pages)
            self.pool.touch(pages)
            assert self.pool.num_free == before
            self.held.append(pages)

    @precondition(lambda self: any(self.held))
    @rule(data=st.data())
    def keep(self, data: st.DataObject) -> None:
        page = data.draw(st.sampled_from([page for pages in self.held for page in pages]))
        self.pool.keep(page)
        self.kept.add(page)

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        page = data.draw(st.sampled_from(sorted(self.kept)))
        self.pool.drop(page)
        self.kept.remove(page)

    @invariant()
    def agrees(self) -> None:
        self.pool.check()
        for page in range(1, self.pool.num_pages):
            assert self.pool.references(page) == sum(pages.count(page) for pages in self.held)


TestPoolTraffic = PoolTraffic.TestCase
TestPoolTraffic.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
