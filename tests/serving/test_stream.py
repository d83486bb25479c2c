"""Streams that end before their time: clients that leave, engines that fail, and what both leave behind."""

import json
import socket
import threading
import time

import httpx
import pytest
from fake_engine import FakeEngine
from served_model import wait_until

from jaxengine import AsyncEngine

LONG = {"prompt": "x", "max_tokens": 200, "ignore_eos": True}


def unused(served):
    """Whether nothing of any request is left."""
    scheduler, server = served.engine.engine.scheduler, served.server
    idle = not scheduler.has_unfinished() and scheduler.pool.usage == 0 and not served.engine._streams
    return idle and not server.jobs and server.admission.counts.own == server.admission.requests == 0


@pytest.fixture
def broken(serve):
    """Of a fake engine that can be stopped and broken."""
    fake = FakeEngine(answer="word " * 100)
    fake.scheduler = type("Scheduler", (), {"max_num_seqs": 8})()
    engine = AsyncEngine(fake)
    yield fake, serve(engine)
    fake.gate.set()
    engine.shutdown()


@pytest.fixture
def slowly(served, monkeypatch):
    """Steps of 10 ms at least: nothing LONG ends by itself before a test has looked at it."""
    engine = served.engine.engine
    step = engine.step
    monkeypatch.setattr(engine, "step", lambda: (time.sleep(0.01), step())[1])


@pytest.mark.usefixtures("slowly")
@pytest.mark.parametrize("body", [{}, {"n": 3}, {"prompt": ["a", "b", "c"]}])
def test_a_client_that_leaves_a_stream(served, body):
    with served.http.stream("POST", "/v1/completions", json={**LONG, **body, "stream": True}) as answer:
        next(answer.iter_lines())
        assert not unused(served)
    wait_until(lambda: unused(served), 5)


@pytest.mark.usefixtures("slowly")
@pytest.mark.parametrize("more", [{}, {"use_beam_search": True}])
def test_a_client_that_does_not_wait_for_its_answer(served, more):
    body = json.dumps({**LONG, "n": 4, **more}).encode()
    headers = ("host: x", "content-type: application/json", f"content-length: {len(body)}", "", "")
    head = "\r\n".join(("POST /v1/completions HTTP/1.1", *headers))
    with socket.create_connection(("127.0.0.1", int(served.url.rsplit(":", 1)[1]))) as client:
        client.sendall(head.encode() + body)
        wait_until(lambda: served.engine.engine.scheduler.has_unfinished())
    wait_until(lambda: unused(served), 5)


def test_many_that_leave(served):
    def leave(number):
        with httpx.stream("POST", f"{served.url}/v1/completions", json={**LONG, "stream": True}) as answer:
            for _, _ in zip(range(number % 4), answer.iter_lines(), strict=False):
                pass

    threads = [threading.Thread(target=leave, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(lambda: unused(served), 10)
    assert served.post("/v1/completions", prompt="x", max_tokens=1).status_code == 200


def test_a_failure_in_the_middle_of_a_stream(broken):
    fake, served = broken
    fake.fail_at = 5
    with served.http.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as answer:
        events = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert (answer.status_code, events[-1]) == (200, "[DONE]")
    assert json.loads(events[-2])["error"]["code"] == 503
    assert all("choices" in json.loads(event) for event in events[:-2])
    for path, status in (("/health", 503), ("/ready", 503), ("/live", 503), ("/ping", 503), ("/metrics", 200)):
        assert served.http.get(path).status_code == status
    late = served.post("/v1/completions", prompt="x")
    assert (late.status_code, late.headers["retry-after"]) == (503, "10")


def test_a_failure_before_the_first_token(broken):
    fake, served = broken
    fake.fail_at = 1
    for stream in (True, False):
        assert served.post("/v1/completions", **LONG, stream=stream).status_code == 503


def test_an_endpoint_that_fails(broken, monkeypatch):
    _, served = broken
    monkeypatch.setattr(served.server.admission, "enter", None)
    answer = served.post("/v1/completions", prompt="x")
    assert (answer.status_code, "NoneType" in answer.text) == (500, False)
