"""When a request's pages become known to the prefix cache: as soon as they are full of known tokens.

The scheduler notes who is planned, newcomers.py makes their pages known before it looks for pages to share. Within a
program keys are written before they are read, so pages count from the step that fills them on.
"""

from __future__ import annotations

import sys

from jaxengine.prefix_cache import PrefixCache
from jaxengine.request import Request

NEVER = sys.maxsize  # Request.register_at of those whose pages nobody may share


class PageRegistry:
    """Keeps Request.register_at: the length from which on there are full pages that the cache does not know."""

    def __init__(self, prefix_cache: PrefixCache) -> None:
        self.prefix_cache = prefix_cache
        self.planned: list[Request] = []  # in this step, their full pages not yet known to the cache

    def begin(self, request: Request) -> None:
        """A request comes in, whose pages up to its computed tokens are the cache's."""
        cache = self.prefix_cache
        request.register_at = request.num_computed_tokens + cache.page_size if cache.shares(request) else NEVER

    def register_planned(self) -> None:
        for request in self.planned:
            if request.num_computed_tokens >= request.register_at:
                self.register(request)
        self.planned.clear()

    def register(self, request: Request) -> None:
        """Make the pages known that have become full of known tokens."""
        cache, page_size, count = self.prefix_cache, self.prefix_cache.page_size, self.prefix_cache.groups.count
        cache.hash_pages(request)
        full = min(len(request.token_ids), request.num_computed_tokens) // page_size
        for place in range(request.register_at // page_size - 1, full):
            cache.register(request.pages[place * count : (place + 1) * count], request.page_hashes[place])
        request.register_at = (full + 1) * page_size
