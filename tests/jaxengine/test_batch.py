"""A Plan, packed on the host and unpacked in the graph, says the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxengine.batch import CACHED_PAGES, IN_FLIGHT, Layout, Packer, page_updates, paged_rows, steps_later, unpack
from jaxengine.buckets import Bucket
from jaxengine.plan import Plan, Row
from jaxengine.request import Request, SamplingParams

SLOTS, PAGE = 6, 4


def row(slot: int, prompt: list[int], start: int, count: int, pages: tuple[int, ...] = (), **params: float) -> Row:
    request = Request(f"r{slot}", prompt, SamplingParams(**params), seed=2**32 - 1 - slot)  # type: ignore[arg-type]
    request.slot = slot
    first = start // PAGE
    samples = int(start + count >= len(prompt))
    return Row(request, start, count, samples, pages, range(first, first + len(pages)), False, 0)


def unpacked(rows: list[Row], bucket: Bucket):  # type: ignore[no-untyped-def]
    packer, layout = Packer(SLOTS), Layout(bucket, PAGE, scratch_slot=SLOTS)
    for each in rows:
        packer.admit(each.request)
    decoding = sum(each.num_tokens == 1 for each in rows)
    plan = Plan(rows, decoding, sum(each.num_tokens for each in rows), [])
    return unpack(jnp.asarray(packer.pack(plan, layout, page_updates(plan))), layout)


def test_a_mixed_step() -> None:
    rows = [
        row(4, [1, 2, 3], 3, 1, temperature=0.5, top_k=7),  # its token is still on the device
        row(0, [1, 2, 3], 2, 1, pages=(9,)),
        row(5, list(range(10, 20)), 4, 5, pages=(7, 8), top_p=0.25, min_p=0.125, prompt_logprobs=1),
    ]
    batch = unpacked(rows, Bucket(16, 4, False))
    assert batch.tokens[:7].tolist() == [IN_FLIGHT, 3, 14, 15, 16, 17, 18]
    assert batch.positions[:7].tolist() == [3, 2, 4, 5, 6, 7, 8]
    assert batch.token_row[:7].tolist() == [0, 1, 2, 2, 2, 2, 2]
    assert batch.targets[:8].tolist() == [-1, -1, 15, 16, 17, 18, 19, -1]
    assert batch.slot.tolist() == [4, 0, 5, SLOTS]
    assert batch.context_len.tolist() == [4, 3, 9, 0]
    assert batch.query_start.tolist() == [0, 1, 2, 7, 7]
    assert (int(batch.num_decode), batch.samples.tolist()) == (2, [1, 1, 0, 0])
    settings = batch.sampling
    assert settings.top_k.tolist() == [7, 0, 0, 0]
    np.testing.assert_array_equal(settings.temperature[:3], np.array([0.5, 1, 1], np.float32))
    np.testing.assert_array_equal(settings.top_p[:3], np.array([1, 1, 0.25], np.float32))
    np.testing.assert_array_equal(settings.min_p[:3], np.array([0, 0, 0.125], np.float32))
    assert (np.asarray(settings.seed[:3]).view(np.uint32) == [2**32 - 1 - slot for slot in (4, 0, 5)]).all()
    assert settings.num_outputs[:3].tolist() == [1, 0, -1]
    changes = np.stack(batch.page_updates)
    assert changes[:, :3].T.tolist() == [[0, 0, 9], [5, 1, 7], [5, 2, 8]]
    assert (changes[0, 3:] == SLOTS).all()


def test_rows_that_start_their_request() -> None:
    rows = [row(4, [1], 0, 1), row(0, [1, 2, 3], 2, 1), row(5, list(range(9)), 0, 5), row(3, list(range(9)), 2, 5)]
    layout = Layout(Bucket(16, 5, False), PAGE, SLOTS)
    pages = paged_rows(unpacked(rows, layout.bucket), jnp.zeros((SLOTS + 1, 9), jnp.int32), layout, 50)
    assert pages.slot.tolist() == [4, 0, 5, 3, SLOTS]
    assert pages.starts.tolist() == [True, False, True, False, True]
    layout = Layout(Bucket(4, 4, True), PAGE, SLOTS)
    pages = paged_rows(unpacked(rows[:2], layout.bucket), jnp.zeros((SLOTS + 1, 9), jnp.int32), layout, 50)
    assert pages.starts.tolist() == [True, False, True, True]


def test_a_decode_step() -> None:
    batch = unpacked([row(2, [5, 6], 1, 1), row(1, [5, 6, 7], 3, 1)], Bucket(4, 4, True))
    assert batch.tokens.tolist() == [6, IN_FLIGHT, 0, 0]
    assert batch.positions.tolist() == [1, 3, 0, 0]
    assert batch.token_slot.tolist() == [2, 1, SLOTS, SLOTS]


def test_steps_later_rows_feed_what_they_sampled_until_they_end() -> None:
    rows = [row(2, [5, 6], 1, 1), row(1, [5, 6, 7], 3, 1)]
    rows[0].samples, rows[1].samples = 3, 1
    batch = unpacked(rows, Bucket(4, 4, True))
    now, later = steps_later(batch, jnp.int32(0)), steps_later(batch, jnp.int32(2))
    assert all(jnp.array_equal(a, b) for a, b in zip(jax.tree.leaves(now), jax.tree.leaves(batch), strict=True))
    assert later.tokens.tolist() == [IN_FLIGHT] * 4
    assert later.positions.tolist() == [3, 0, 0, 0]
    assert later.context_len.tolist() == [4, 0, 0, 0]
    assert later.sampling.position.tolist() == [4, 0, 0, 0]
    assert later.sampling.live.tolist() == [True, False, False, False]
    assert int(later.sampling.num_outputs[0]) == int(batch.sampling.num_outputs[0]) + 2
    pages = paged_rows(later, jnp.zeros((SLOTS + 1, 9), jnp.int32), Layout(Bucket(4, 4, True), PAGE, SLOTS), 50)
    assert pages.write_page.tolist() == [0, 50, 50, 50]
    assert pages.slot.tolist() == [2, SLOTS, SLOTS, SLOTS]  # the state of the one that has ended stays as it is
    assert pages.starts.tolist() == [False, True, True, True]


@pytest.mark.parametrize("tokens", [64, 8192])
def test_a_long_cached_prompt_needs_no_dispatch_of_its_own(tokens: int) -> None:
    prompt = list(range(CACHED_PAGES * PAGE + 3))
    cached = row(3, prompt, CACHED_PAGES * PAGE, 3, pages=tuple(range(1, CACHED_PAGES + 2)))
    cached.places = range(CACHED_PAGES + 1)
    updates = page_updates(Plan([cached], 0, 3, []))
    assert len(updates) == CACHED_PAGES + 1 <= Layout(Bucket(tokens, 8, False), PAGE, scratch_slot=SLOTS).updates
    np.testing.assert_array_equal(updates, [(3, index, index + 1) for index in range(CACHED_PAGES + 1)])


def test_no_change_of_pages() -> None:
    assert page_updates(Plan([row(2, [5, 6], 1, 1)], 1, 1, [])).shape == (0, 3)
