"""The static shapes: every plan fits, padding is bounded, the largest are the limits, and there are few."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxengine.buckets import Bucket, Buckets


def sizes(buckets: tuple[Bucket, ...]) -> list[int]:
    return [bucket.tokens for bucket in buckets]


def test_the_ladders_of_a_usual_server() -> None:
    buckets = Buckets(512, 8192)
    assert sizes(buckets.decode) == [1, 8, 32, 64, 128, 256, 512]
    assert sizes(buckets.mixed) == [64, 256, 512, 1024, 2048, 4096, 8192]
    assert sizes(buckets.coarse) == [32, 512, 64, 1024, 8192]
    assert all(bucket.rows == min(bucket.tokens, 512) for bucket in buckets.mixed)


def test_the_last_step_is_exactly_the_limit_and_no_bucket_is_just_below_it() -> None:
    buckets = Buckets(260, 8200)
    assert sizes(buckets.decode)[-2:] == [128, 260]
    assert sizes(buckets.mixed)[-2:] == [4096, 8200]


def test_few_shapes() -> None:
    few = Buckets(64, 2048, few=True)
    assert sizes(few.decode) == [1, 8, 32, 64]
    assert sizes(few.mixed) == [64, 256, 2048]
    assert sizes(few.coarse) == [32, 64, 64, 256, 2048]


def test_a_budget_below_the_sequences_is_refused() -> None:
    with pytest.raises(ValueError, match=r"max_num_batched_tokens: 8 .* use at least 16"):
        Buckets(16, 8)


limits = st.tuples(st.integers(1, 1200), st.integers(0, 20000)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(limits, st.booleans(), st.booleans(), st.data())
def test_every_plan_fits_in_the_smallest_bucket_for_it(
    limit: tuple[int, int], few: bool, coarse: bool, data: st.DataObject
) -> None:
    seqs, tokens = limit
    buckets = Buckets(seqs, tokens, few=few)
    assert (buckets.decode[-1].tokens, buckets.mixed[-1].tokens, buckets.mixed[-1].rows) == (seqs, tokens, seqs)
    assert set(buckets.coarse) <= set(buckets.all)
    assert len(buckets.all) <= 34
    decode_only = data.draw(st.booleans())
    num_tokens = data.draw(st.integers(1, seqs if decode_only else tokens))
    num_rows = num_tokens if decode_only else data.draw(st.integers(1, min(num_tokens, seqs)))
    bucket = buckets.fit(num_tokens, num_rows, decode_only, coarse=coarse)
    assert bucket.tokens >= num_tokens
    assert bucket.rows >= num_rows
    assert bucket.decode_only == decode_only
    allowed = [b for b in (buckets.coarse if coarse else buckets.all) if b.decode_only == decode_only]
    assert bucket == min((b for b in allowed if b.tokens >= num_tokens), key=lambda b: b.tokens)
    if not few and not coarse and num_tokens >= 256:
        assert bucket.tokens < num_tokens * 2.3


def test_too_much_is_an_error() -> None:
    buckets = Buckets(4, 64)
    for arguments in ((65, 4, False), (5, 5, True), (20, 5, False)):
        with pytest.raises(ValueError, match="more than the largest bucket"):
            buckets.fit(*arguments)
