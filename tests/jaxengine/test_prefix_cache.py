"""The prefix cache: what is hashed, byte for byte, what is found, and what is forgotten."""

import hashlib
import subprocess
import sys
from typing import Any

import pytest
import xxhash

from jaxengine.pages import PagePool
from jaxengine.prefix_cache import ALGORITHMS, PrefixCache
from jaxengine.request import Request, SamplingParams

PAGE = 4


def request(tokens: list[int], **fields: Any) -> Request:
    params = fields.pop("params", SamplingParams())
    return Request("r", tokens, params, **fields)


def hashes(cache: PrefixCache, tokens: list[int], **fields: Any) -> list[bytes]:
    made = request(tokens, **fields)
    cache.hash_pages(made)
    return made.page_hashes


def fill(cache: PrefixCache, tokens: list[int], **fields: Any) -> list[int]:
    """A request has run and left: its full pages are known. Returns them."""
    digests = hashes(cache, tokens, **fields)
    pages = cache.pool.allocate(len(digests))
    for page, digest in zip(pages, digests, strict=True):
        cache.register([page], digest)
    cache.pool.free(pages)
    return pages


def find(cache: PrefixCache, tokens: list[int], **fields: Any) -> list[int]:
    made = request(tokens, **fields)
    cache.hash_pages(made)
    return cache.match(made)


def test_siblings_share_unless_they_may_not() -> None:
    child = request([1, 2], parent_id="p")
    assert PrefixCache(PagePool(20), PAGE, enabled=False).shares(child)
    assert not PrefixCache(PagePool(20), PAGE, enabled=False, siblings=False).shares(child)


@pytest.fixture(params=ALGORITHMS)
def cache(request: pytest.FixtureRequest) -> PrefixCache:
    return PrefixCache(PagePool(20), PAGE, request.param)


def test_only_full_pages_and_never_the_last_token(cache: PrefixCache) -> None:
    tokens = list(range(12))
    pages = fill(cache, [*tokens, 12])
    assert find(cache, [*tokens, 99]) == pages
    assert find(cache, tokens) == pages[:2]  # all three would leave no token to run
    assert find(cache, tokens[:9]) == pages[:2]
    assert find(cache, tokens[:4]) == []
    assert find(cache, [*tokens[:4], 99, *tokens[5:]]) == pages[:1]
    assert find(cache, tokens[4:]) == []  # the same tokens at another place are another page


def test_salt_adapter_and_their_combinations_do_not_share(cache: PrefixCache) -> None:
    tokens = list(range(9))
    keys: list[dict[str, Any]] = [
        {},
        {"cache_salt": "x"},
        {"cache_salt": ""},
        {"lora_name": "x"},
        {"lora_name": "x", "cache_salt": "x"},
        {"lora_name": "xsalt", "cache_salt": None},
        {"cache_salt": "\ud800"},
    ]
    first = [hashes(cache, tokens, **fields)[0] for fields in keys]
    second = [hashes(cache, tokens, **fields)[1] for fields in keys]
    assert len(set(first)) == len(set(second)) == len(keys)
    for fields in keys:
        pages = fill(cache, tokens, **fields)
        assert find(cache, tokens, **fields) == pages


def test_a_request_may_refuse_to_read(cache: PrefixCache) -> None:
    fill(cache, list(range(9)))
    assert find(cache, list(range(9)), params=SamplingParams(prompt_logprobs=0)) == []
    assert find(cache, list(range(9)), params=SamplingParams(skip_reading_prefix_cache=True)) == []


def test_output_tokens_extend_the_chain(cache: PrefixCache) -> None:
    growing = request(list(range(6)))
    cache.hash_pages(growing)
    assert len(growing.page_hashes) == 1
    growing.token_ids += [6, 7, 8]
    cache.hash_pages(growing)
    assert growing.page_hashes == hashes(cache, list(range(9)))


def test_the_newest_page_of_a_hash_is_kept_and_the_older_lost_first(cache: PrefixCache) -> None:
    old = fill(cache, list(range(5)))
    new = fill(cache, list(range(5)))
    assert old != new
    assert find(cache, list(range(5))) == new
    assert cache.pool.free_pages()[0] == old[0]
    assert len(cache) == 1
    cache.pool.check()


def test_an_evicted_page_is_not_found(cache: PrefixCache) -> None:
    pages = fill(cache, list(range(13)))
    taken = cache.pool.allocate(cache.pool.num_free - 2)
    assert pages[2] in taken  # the tail goes first
    assert find(cache, list(range(13))) == pages[:2]
    cache.pool.allocate(2)
    assert len(cache) == 0


def test_reset_waits_for_pages_in_use(cache: PrefixCache) -> None:
    pages = fill(cache, list(range(9)))
    cache.pool.touch(pages)
    assert not cache.reset()
    assert find(cache, list(range(9))) == pages
    cache.pool.free(pages)
    assert cache.reset()
    assert find(cache, list(range(9))) == []
    assert len(cache) == 0
    cache.pool.check()


def test_disabled_only_siblings_share() -> None:
    cache = PrefixCache(PagePool(20), PAGE, enabled=False)
    assert not cache.shares(request([1]))
    assert cache.shares(request([1], parent_id="a"))
    tokens = list(range(9))
    pages = fill(cache, tokens, parent_id="a")
    assert find(cache, tokens, parent_id="a") == pages
    assert find(cache, tokens, parent_id="b") == []
    cache.record(9, 8)
    assert (cache.queries, cache.hits) == (0, 0)


def test_parents_do_not_matter_when_everybody_shares(cache: PrefixCache) -> None:
    assert hashes(cache, list(range(9)), parent_id="a") == hashes(cache, list(range(9)))


# The bytes that are hashed, written out by hand: anybody can compute these.
FIRST_CBOR = bytes.fromhex("83" + "5820" + "00" * 32 + "84" + "01" + "1818" + "190100" + "1a00010000" + "f6")
SALTED_CBOR = FIRST_CBOR[:-1] + bytes.fromhex("82" + "82" + "446c6f7261" + "4161" + "82" + "4473616c74" + "4162")
TOKENS = [1, 24, 256, 65536]


def test_sha256_cbor_is_the_same_everywhere() -> None:
    cache = PrefixCache(PagePool(2), PAGE, "sha256_cbor")
    first, second = hashes(cache, TOKENS + TOKENS)
    assert first == hashlib.sha256(FIRST_CBOR).digest()
    assert first.hex() == "b99b65d06b768e9ef33d89da03976a2e3cd1ebd8368c0f2c8d6fc0035a79afe0"
    assert second == hashlib.sha256(b"\x83\x58\x20" + first + FIRST_CBOR[35:]).digest()
    assert hashes(cache, TOKENS, lora_name="a", cache_salt="b") == [hashlib.sha256(SALTED_CBOR).digest()]


def test_xxhash_cbor_is_the_same_everywhere() -> None:
    cache = PrefixCache(PagePool(2), PAGE, "xxhash_cbor")
    first, second = hashes(cache, TOKENS + TOKENS)
    assert first == xxhash.xxh3_128_digest(FIRST_CBOR)
    assert first.hex() == "3d8f2b562a823b79dd41551bf65792de"
    assert second == xxhash.xxh3_128_digest(b"\x83\x50" + first + FIRST_CBOR[35:])
    assert hashes(cache, TOKENS, lora_name="a", cache_salt="b") == [xxhash.xxh3_128_digest(SALTED_CBOR)]


@pytest.mark.parametrize("algorithm", ["sha256", "xxhash"])
def test_the_binary_encoding(algorithm: str) -> None:
    cache = PrefixCache(PagePool(2), PAGE, algorithm)
    digest = xxhash.xxh3_128_digest if algorithm == "xxhash" else lambda data: hashlib.sha256(data).digest()
    tokens = b"".join(token.to_bytes(4, "little") for token in TOKENS)
    keys = b"\4\0\0\0lora\1\0\0\0a"
    first, second = hashes(cache, TOKENS + TOKENS, lora_name="a", cache_salt="b")
    assert first == digest(cache._root + tokens + keys + b"\4\0\0\0salt\1\0\0\0b")
    assert second == digest(first + tokens + keys)
    assert cache._root != PrefixCache(PagePool(2), PAGE, algorithm)._root


def test_an_unknown_algorithm_or_a_missing_package_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="'builtin' is unknown; use one of sha256, "):
        PrefixCache(PagePool(2), PAGE, "builtin")
    monkeypatch.setitem(sys.modules, "xxhash", None)
    with pytest.raises(ValueError, match="needs the package xxhash; install it, or use 'sha256'"):
        PrefixCache(PagePool(2), PAGE, "xxhash")


def test_sha256_needs_no_other_package() -> None:
    code = "import sys; sys.modules['xxhash'] = sys.modules['cbor2'] = None; import jaxengine.scheduler"
    subprocess.run([sys.executable, "-c", code], check=True)
