"""Which pages hold which tokens: a chain of hashes over full pages, so that equal prefixes share pages.

The scheduler calls it: `hash_pages` and `match` before a request starts, `register` when a page has become full. Pages
live in the pool (pages.py), which keeps the unreferenced ones until it needs them and then says so.

The hash of a page covers its parent's hash, its tokens and its extra keys, which are pairs (kind, value) of UTF-8
bytes: ("lora", adapter name) on every page; on the first page ("salt", the request's cache_salt) and, for sequences
that share only with their siblings, ("parent", the user's request id). Byte for byte:

  sha256, xxhash            digest(parent ‖ each token as 4 bytes, little endian ‖ for each key: kind, value, each after
                            its length as 4 bytes, little endian). The root parent is 32 random bytes per cache.
  sha256_cbor, xxhash_cbor  digest(canonical CBOR (RFC 8949, 4.2) of [parent, [tokens], null or [[kind, value], …]];
                            parent, kind and value are byte strings). The root parent is 32 zero bytes: the same hashes
                            in every process and language.

xxhash is XXH3-128 (seed 0, canonical big-endian digest): quick, but not safe against people who construct collisions.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import secrets
import sys
from array import array
from collections.abc import Callable, Sequence
from typing import Any

from jaxengine.kv_groups import KvGroups
from jaxengine.pages import NULL_PAGE, PagePool
from jaxengine.request import Request

ALGORITHMS = ("sha256", "sha256_cbor", "xxhash", "xxhash_cbor")
ROOT_BYTES = 32

Keys = tuple[tuple[bytes, bytes], ...]
Digest = Callable[[bytes], Any]  # data → an object with digest()
PageHasher = Callable[[bytes, Sequence[int], int, Keys], list[bytes]]  # parent, tokens, page size, keys of each page


class PrefixCache:
    """Full pages by the hash of everything up to their end. One page a hash: the newest, which will live longest.

    With enabled=False the sequences of one user request (n > 1) share their prompt's pages and nobody else shares any;
    with siblings=False they do not either: pages alone do not tell what a recurrent layer knows.
    `queries` and `hits` count prompt tokens looked up and found, at first admission.
    """

    def __init__(
        self,
        pool: PagePool,
        page_size: int,
        algorithm: str = "sha256",
        *,
        groups: KvGroups | None = None,
        enabled: bool = True,
        siblings: bool = True,
    ) -> None:
        self.pool = pool
        self.page_size = page_size
        self.groups = groups or KvGroups()
        self.enabled, self.siblings = enabled, siblings
        self.queries = 0
        self.hits = 0
        self._hash_pages, self._root = _page_hasher(algorithm)
        self._page_of: dict[bytes, int] = {}
        self._hash_of: dict[int, bytes] = {}
        pool.on_evict = self._forget

    def __len__(self) -> int:
        return len(self._page_of)

    def shares(self, request: Request) -> bool:
        """Whether this request's pages may be found by another one."""
        return self.enabled or (self.siblings and request.parent_id is not None)

    def hash_pages(self, request: Request) -> None:
        """Extend request.page_hashes to every full page of its known tokens."""
        hashes, page_size = request.page_hashes, self.page_size
        first, last = len(hashes), len(request.token_ids) // page_size
        if first >= last:
            return
        tokens = request.token_ids[first * page_size : last * page_size]
        if first == 0:
            hashes += self._hash_pages(self._root, tokens[:page_size], page_size, self._keys(request, first=True))
            tokens = tokens[page_size:]
        hashes += self._hash_pages(hashes[-1], tokens, page_size, self._keys(request, first=False))

    def match(self, request: Request, most: int | None = None) -> list[int]:
        """The pages, already written or about to be, that hold the beginning of the request's known tokens.

        At most all but its last token: that one must run to sample the next. `hash_pages` has been called. With several
        groups of layers one page a group for each place, NULL_PAGE where no later token looks. most: places at most.
        """
        if not request.params.reads_prefix_cache:
            return []
        digests = request.page_hashes[: (len(request.token_ids) - 1) // self.page_size][:most]
        if self.groups.slides:
            return self._match_groups(digests)
        pages = []
        page_of = self._page_of
        for digest in digests:
            page = page_of.get(digest)
            if page is None:
                break
            pages.append(page)
        return pages

    def record(self, queried: int, hit: int) -> None:
        """Count a look-up, in tokens."""
        if self.enabled:
            self.queries += queried
            self.hits += hit

    def register(self, pages: Sequence[int], digest: bytes) -> None:
        """`pages`, in use, one a group of layers, hold the tokens of `digest` once every dispatched step has run.
        They replace older ones."""
        for group, page in enumerate(pages):
            if page != NULL_PAGE:
                self._register(page, self._key(digest, group))

    def _key(self, digest: bytes, group: int) -> bytes:
        return digest if group == 0 else digest + bytes((group,))

    def _match_groups(self, digests: Sequence[bytes]) -> list[int]:
        """As many places as all groups together can go on from: a group with a window needs what it shows alone."""
        groups, size, page_of = self.groups, self.page_size, self._page_of
        places = len(digests)
        while places:
            for group in range(groups.count):
                first = groups.first_place(group, places * size, size)
                whole = groups.windows[group] is None
                order = range(first, places) if whole else range(places - 1, first - 1, -1)
                lacking = next((i for i in order if self._key(digests[i], group) not in page_of), None)
                if lacking is not None:
                    places = lacking
                    break
            else:
                break
        firsts = [groups.first_place(group, places * size, size) for group in range(groups.count)]
        return [
            page_of[self._key(digests[place], group)] if place >= firsts[group] else NULL_PAGE
            for place in range(places)
            for group in range(groups.count)
        ]

    def _register(self, page: int, digest: bytes) -> None:
        old = self._page_of.get(digest)
        if old == page:
            return
        if old is not None:
            del self._hash_of[old]
            self.pool.drop(old)
        self._page_of[digest] = page
        self._hash_of[page] = digest
        self.pool.keep(page)

    def reset(self) -> bool:
        """Forget every page. False, and nothing done, while a page is in use."""
        if self.pool.num_free != self.pool.num_usable:
            return False
        for page in self._hash_of:
            self.pool.drop(page)
        self._page_of.clear()
        self._hash_of.clear()
        return True

    def renew(self) -> None:
        """What was computed before is found no more: hashes have another root from now on."""
        self._root = hashlib.sha256(self._root).digest()

    def entries(self) -> dict[int, bytes]:
        """Page → hash, of every page that can be found."""
        return dict(self._hash_of)

    def _forget(self, page: int) -> None:
        del self._page_of[self._hash_of.pop(page)]

    def _keys(self, request: Request, *, first: bool) -> Keys:
        named: list[tuple[bytes, str | None]] = [(b"lora", request.lora_name)]
        if first:
            named.append((b"salt", request.cache_salt))
            named.append((b"parent", None if self.enabled else request.parent_id))
        return tuple((kind, value.encode(errors="surrogatepass")) for kind, value in named if value is not None)


def _page_hasher(algorithm: str) -> tuple[PageHasher, bytes]:
    """How a run of pages is hashed, and the root parent."""
    if algorithm not in ALGORITHMS:
        raise ValueError(f"prefix_caching_hash_algo: {algorithm!r} is unknown; use one of {', '.join(ALGORITHMS)}")
    new = _package("xxhash", algorithm).xxh3_128 if algorithm.startswith("xxhash") else hashlib.sha256
    if not algorithm.endswith("_cbor"):
        return functools.partial(_hash_binary, new), secrets.token_bytes(ROOT_BYTES)
    return functools.partial(_hash_cbor, new, _package("cbor2", algorithm).dumps), bytes(ROOT_BYTES)


def _hash_binary(new: Digest, parent: bytes, tokens: Sequence[int], page_size: int, keys: Keys) -> list[bytes]:
    words = array("I", tokens)
    if sys.byteorder == "big":
        words.byteswap()
    data, size, hashes = words.tobytes(), page_size * words.itemsize, []
    end = b"".join(len(part).to_bytes(4, "little") + part for key in keys for part in key)
    for start in range(0, len(data), size):  # prompts are long: this is all the Python that a page costs
        parent = new(parent + data[start : start + size] + end).digest()
        hashes.append(parent)
    return hashes


def _hash_cbor(
    new: Digest, dumps: Callable[..., bytes], parent: bytes, tokens: Sequence[int], page_size: int, keys: Keys
) -> list[bytes]:
    hashes = []
    for start in range(0, len(tokens), page_size):
        page = tokens[start : start + page_size]
        parent = new(dumps([parent, page, keys or None], canonical=True)).digest()
        hashes.append(parent)
    return hashes


def _package(name: str, algorithm: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ValueError(
            f"prefix_caching_hash_algo: {algorithm!r} needs the package {name}; install it, or use 'sha256'"
        ) from None
