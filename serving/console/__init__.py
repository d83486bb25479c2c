"""The console: one static page at `/`, and the JSON that it looks at every second.

The page needs nothing but this server: no build step, no network. It carries no data, so it is open even where an API
key is asked for; what it shows comes through the API, with the key that its reader types in.
"""

from __future__ import annotations

import time
from functools import cache
from importlib import resources
from typing import Any

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from serving.server import Server

TYPES = ()
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
}


def routes(server: Server) -> APIRouter:
    router = APIRouter(tags=["console"])

    @router.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def console() -> HTMLResponse:
        return HTMLResponse(_page(), headers=HEADERS)

    @router.get("/console/state", include_in_schema=False)
    async def state() -> dict[str, Any]:
        return {
            "model": server.name,
            "version": server.version,
            "memory": server.engine.memory_table,
            "load": _load(server),
            "requests": _requests(server),
        }

    return router


@cache
def _page() -> str:
    return resources.files("serving.console").joinpath("page.html").read_text(encoding="utf-8")


def _load(server: Server) -> dict[str, float]:
    metrics = server.engine.metrics
    return {
        "running": metrics.num_requests_running.value,
        "waiting": metrics.num_requests_waiting.value,
        "kv_usage": metrics.kv_cache_usage_perc.value,
        "prompt_tokens": metrics.prompt_tokens.value,
        "generation_tokens": metrics.generation_tokens.value,
        "prefix_queries": metrics.prefix_cache_queries.value,
        "prefix_hits": metrics.prefix_cache_hits.value,
        "ttft_sum": metrics.time_to_first_token.sum,
        "ttft_count": metrics.time_to_first_token.count,
    }


def _requests(server: Server) -> list[dict[str, Any]]:
    now = time.time()
    return [
        {
            "id": job.request_id,
            "seconds": now - job.arrival_time,
            "prompt_tokens": job.prompt_tokens,
            "output_tokens": job.output_tokens,
        }
        for job in server.jobs
    ]
