"""The line about throughput and queues: what it says, of which time, and in which form."""

import asyncio
import json
import logging
import time
from types import SimpleNamespace

import pytest
from fake_engine import FakeEngine
from served_model import wait_until

from jaxengine import AsyncEngine
from jaxengine.metrics import Metrics
from serving.config import ServerConfig
from serving.logs import JsonLines, log_statistics, set_up

ASK = {"prompt": "one two three four five six seven eight nine ten " * 4, "max_tokens": 20, "ignore_eos": True}


@pytest.fixture
def lines(caplog):
    """Those about statistics."""
    caplog.set_level(logging.INFO, logger="serving.logs")
    return lambda: [record for record in caplog.records if record.name == "serving.logs"]


@pytest.fixture(scope="module")
def talkative(serve):
    """A line every 0.2 seconds."""
    return serve(disable_log_stats=False, log_stats_interval=0.2)


def fields(record):
    return json.loads(JsonLines().format(record))


def test_a_line_of_everything(talkative, lines):
    def told(name):
        return any(fields(record)[name] > 0 for record in lines())

    for _ in range(2):  # the second one finds the first one's pages
        talkative.post("/v1/completions", **ASK)
    names = ("prompt_throughput", "generation_throughput", "prefix_cache_hit_rate")
    wait_until(lambda: all(map(told, names)), 10)
    record = lines()[-1]
    values = fields(record)
    assert record.getMessage() == (
        f"Avg prompt throughput: {values['prompt_throughput']:.1f} tokens/s, "
        f"Avg generation throughput: {values['generation_throughput']:.1f} tokens/s, "
        f"Running: {values['running']} reqs, Waiting: {values['waiting']} reqs, Preemptions: 0, "
        f"KV cache usage: {100 * values['kv_cache_usage']:.1f}%, "
        f"Prefix cache hit rate: {100 * values['prefix_cache_hit_rate']:.1f}%"
    )


def test_it_is_about_that_time_alone(lines):
    """And nothing is said of a time without work."""
    metrics = Metrics()
    server = SimpleNamespace(engine=SimpleNamespace(metrics=metrics), config=ServerConfig(log_stats_interval=0.05))

    async def test():
        task = asyncio.create_task(log_statistics(server))
        await asyncio.sleep(0)
        for number, waiting in enumerate((2, 0, 1)):
            metrics.num_preemptions.add(number)
            metrics.generation_tokens.add(100 * number)
            metrics.prefix_cache_queries.add(10)
            metrics.prefix_cache_hits.add(5 * number)
            metrics.num_requests_waiting.set(waiting)
            while len(lines()) <= number:
                await asyncio.sleep(0.005)
        metrics.num_requests_waiting.set(0)
        await asyncio.sleep(0.2)
        task.cancel()

    asyncio.run(test())
    told = [fields(record) for record in lines()]
    assert [(line["preemptions"], line["prefix_cache_hit_rate"]) for line in told] == [(0, 0.0), (1, 0.5), (2, 1.0)]
    assert [line["waiting"] for line in told] == [2, 0, 1]
    assert told[0]["generation_throughput"] == 0
    assert all(0 < line["generation_throughput"] <= 200 / 0.05 for line in told[1:])


def test_it_can_be_turned_off(serve, lines):
    fake = FakeEngine()
    fake.scheduler = type("Scheduler", (), {"max_num_seqs": 2})
    engine = AsyncEngine(fake)
    for off in (False, True):
        served = serve(engine, disable_log_stats=off, log_stats_interval=0.05)
        before = len(lines())
        assert served.post("/v1/completions", prompt="x", max_tokens=4).status_code == 200
        if off:
            time.sleep(0.3)
            assert len(lines()) == before
        else:
            wait_until(lambda: len(lines()) > before, 5)  # noqa: B023
        served.close()
    engine.shutdown()


@pytest.mark.parametrize("form", ["human", "json"])
def test_forms(form, capsys):
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        set_up(ServerConfig(log_format=form))
        logging.getLogger("serving.logs").info("%(a)d of it", {"a": 1}, extra={"a": 1})
    finally:
        for handler in root.handlers:
            root.removeHandler(handler)
        for handler in handlers:
            root.addHandler(handler)
        root.setLevel(level)
    line = capsys.readouterr().err.strip()
    if form == "json":
        told = json.loads(line)
        assert (told["message"], told["a"], told["level"]) == ("1 of it", 1, "info")
    else:
        assert line.startswith("I ")
        assert line.endswith("serving.logs: 1 of it")
