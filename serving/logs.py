"""What the server writes to stderr: lines for people or JSON objects, and every few seconds how it is doing."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from typing import Any

from serving.config import ServerConfig
from serving.server import Server

logger = logging.getLogger(__name__)

PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}

STATISTICS = (  # vLLM's words, which scripts look for
    "Avg prompt throughput: %(prompt_throughput).1f tokens/s, "
    "Avg generation throughput: %(generation_throughput).1f tokens/s, Running: %(running)d reqs, "
    "Waiting: %(waiting)d reqs, Preemptions: %(preemptions)d, KV cache usage: %(kv_cache_usage).1f%%, "
    "Prefix cache hit rate: %(prefix_cache_hit_rate).1f%%"
)


class JsonLines(logging.Formatter):
    """One object a line; what a message carries as `extra` has fields of its own."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in PLAIN}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def set_up(config: ServerConfig) -> None:
    """Everything that logs goes to stderr in the format asked for."""
    handler = logging.StreamHandler(sys.stderr)
    human = logging.Formatter("%(levelname).1s %(asctime)s %(name)s: %(message)s", "%H:%M:%S")
    handler.setFormatter(JsonLines() if config.log_format == "json" else human)
    logging.basicConfig(level=config.log_level.upper(), handlers=[handler], force=True)
    for name in ("asyncio", "jax", "uvicorn"):
        logging.getLogger(name).setLevel(logging.WARNING)


async def log_statistics(server: Server) -> None:
    """A line every `log_stats_interval` seconds in which something happened: of that time alone, and how it is now."""
    metrics = server.engine.metrics
    counters = (
        metrics.prompt_tokens,
        metrics.generation_tokens,
        metrics.num_preemptions,
        metrics.prefix_cache_queries,
        metrics.prefix_cache_hits,
    )
    before, last = [counter.value for counter in counters], time.monotonic()
    while True:
        await asyncio.sleep(server.config.log_stats_interval)
        counts, now = [counter.value for counter in counters], time.monotonic()
        prompt, generated, preempted, looked_up, found = (new - old for new, old in zip(counts, before, strict=True))
        seconds = now - last
        before, last = counts, now
        running, waiting = int(metrics.num_requests_running.value), int(metrics.num_requests_waiting.value)
        if not (prompt or generated or running or waiting):
            continue
        values = {
            "prompt_throughput": round(prompt / seconds, 1),
            "generation_throughput": round(generated / seconds, 1),
            "running": running,
            "waiting": waiting,
            "preemptions": int(preempted),
            "kv_cache_usage": round(metrics.kv_cache_usage_perc.value, 4),
            "prefix_cache_hit_rate": round(found / looked_up, 4) if looked_up else 0.0,
        }
        percent = {name: 100 * values[name] for name in ("kv_cache_usage", "prefix_cache_hit_rate")}
        logger.info(STATISTICS, values | percent, extra=values)
