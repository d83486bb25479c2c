"""Requests whose time is over: what clients are told, and that the engine is free of them."""

import time

import anthropic
import openai
import pytest
from fake_engine import FakeEngine
from served_model import wait_until

from jaxengine import AsyncEngine
from serving.stream import DONE

LONG = {"prompt": "x", "max_tokens": 250, "ignore_eos": True, "temperature": 1.0}
CHAT = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 230, "ignore_eos": True}


BEAMS = {"prompt": "x", "max_tokens": 250, "use_beam_search": True, "n": 2, "ignore_eos": True}


@pytest.fixture(scope="module")
def compiled(served):
    """What these tests run is compiled while they run first."""
    for body in ({}, {"n": 3}, {"prompt": ["a", "b", "c"]}, BEAMS):
        assert served.post("/v1/completions", **LONG | body | {"max_tokens": 4}).status_code == 200
    assert served.post("/v1/chat/completions", **CHAT | {"max_tokens": 4, "temperature": 1.9}).status_code == 200


@pytest.fixture
def slowly(served, compiled, monkeypatch):
    """Steps of 10 ms at least: nothing LONG ends by itself within a second."""
    engine = served.engine.engine
    step = engine.step
    monkeypatch.setattr(engine, "step", lambda: (time.sleep(0.01), step())[1])


@pytest.fixture
def closed():
    """An engine whose first step never ends, as long as its gate is closed."""
    fake = FakeEngine(answer="word " * 100)
    fake.scheduler = type("Scheduler", (), {"max_num_seqs": 2})()
    fake.tokenizer.templates.named["default"] = "{% for m in messages %}<{{ m.content }}>{% endfor %}"
    fake.gate.clear()
    fake.engine = AsyncEngine(fake)
    yield fake
    fake.gate.set()
    fake.engine.shutdown()


def unused(served):
    scheduler = served.engine.engine.scheduler
    return not scheduler.has_unfinished() and scheduler.pool.usage == 0 and not served.server.jobs


@pytest.mark.usefixtures("slowly")
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", LONG),
        ("/v1/completions", LONG | {"n": 3}),
        ("/v1/completions", LONG | {"prompt": ["a", "b", "c"]}),
        ("/v1/completions", BEAMS),
        ("/v1/chat/completions", CHAT),
        ("/v1/responses", {"input": "x", "max_output_tokens": 230, "ignore_eos": True}),
    ],
)
def test_an_answer_in_one_piece(served, path, body):
    began = time.monotonic()
    answer = served.post(path, **body, timeout=0.2)
    took = time.monotonic() - began
    assert (answer.status_code, 0.2 <= took < 3) == (408, True), answer.text
    error = answer.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("RequestTimeoutError", "timeout", 408)
    assert "within 0.2 s" in error["message"]
    wait_until(lambda: unused(served), 5)


@pytest.mark.usefixtures("slowly")
@pytest.mark.parametrize("body", [{}, {"n": 3}, {"prompt": ["a", "b", "c"]}])
def test_a_stream(served, body):
    with served.http.stream("POST", "/v1/completions", json=LONG | body | {"timeout": 0.3, "stream": True}) as answer:
        assert answer.status_code == 200
        events = answer.read().removesuffix(b"\n\n").split(b"\n\n")
    assert events[-1] == DONE.strip()
    assert b'"code":408' in events[-2]
    assert len(events) > 4
    assert b"abort" not in answer.content
    wait_until(lambda: unused(served), 5)


@pytest.mark.parametrize("stream", [False, True])
def test_waiting_counts(serve, closed, stream):
    served = serve(closed.engine)
    answer = served.post("/v1/completions", prompt="x", max_tokens=3, timeout=0.1, stream=stream)
    assert (answer.status_code, answer.json()["error"]["code"]) == (408, 408)
    closed.gate.set()
    wait_until(lambda: not closed.running)
    assert served.post("/v1/completions", prompt="x", max_tokens=3, timeout=60, stream=stream).status_code == 200


@pytest.mark.parametrize(("server", "request_", "told"), [(0.1, 30, "0.1 s"), (30, 0.1, "0.1 s"), (0.1, None, "0.1 s")])
def test_the_smaller_one_holds(serve, closed, server, request_, told):
    answer = serve(closed.engine, request_timeout=server).post("/v1/completions", prompt="x", timeout=request_)
    assert (answer.status_code, told in answer.json()["error"]["message"]) == (408, True)


def test_the_shorter_queue_timeout_holds(serve, closed):
    """That one is the server's load, and may go well the next time."""
    served = serve(closed.engine, queue_timeout=0.1)
    assert served.post("/v1/completions", prompt="x", timeout=5).status_code == 429
    assert serve(closed.engine, queue_timeout=5).post("/v1/completions", prompt="x", timeout=0.1).status_code == 408


@pytest.mark.parametrize("timeout", [0, -1, -0.5, "5", True, [1]])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/messages", "/v1/responses"])
def test_times_that_are_none(served, path, timeout):
    body = {"prompt": "x"} if path == "/v1/completions" else CHAT | {"max_tokens": 3}
    body.pop("ignore_eos", None)
    body = {"input": "x"} if path == "/v1/responses" else body
    answer = served.post(path, **body, timeout=timeout)
    assert (answer.status_code, "timeout: " in answer.json()["error"]["message"]) == (400, True)


@pytest.mark.usefixtures("slowly")
def test_clients_do_not_ask_again(served):
    """openai and anthropic ask again after a 408 when nobody tells them not to."""

    def asked(path):
        return served.http_server.config.app.answered["POST", path, 408]

    before = asked("/v1/chat/completions")
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=2)
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model="demo", messages=CHAT["messages"], extra_body={"timeout": 0.01})
    assert (caught.value.status_code, caught.value.body["code"]) == (408, 408)
    client.close()
    assert asked("/v1/chat/completions") == before + 1
    other = anthropic.Anthropic(base_url=served.url, api_key="none", max_retries=2)
    with pytest.raises(anthropic.APIStatusError) as told:
        other.messages.create(
            model="demo", messages=CHAT["messages"], max_tokens=200, extra_body={"timeout": 0.01, "temperature": 1.9}
        )
    assert (told.value.status_code, told.value.body["error"]["type"]) == (408, "timeout_error")
    other.close()
    assert asked("/v1/messages") == 1


@pytest.mark.usefixtures("slowly")
def test_a_message_that_is_streamed(served, monkeypatch):
    monkeypatch.setattr(served.engine.engine.core, "eos_token_ids", frozenset())
    body = {"model": "demo", "messages": CHAT["messages"], "max_tokens": 200, "temperature": 1.9, "stream": True}
    events = served.post("/v1/messages", **body, timeout=0.3).text.removesuffix("\n\n").split("\n\n")
    assert events[0].startswith("event: message_start")
    assert events[-1].startswith("event: error")
    assert '"timeout_error"' in events[-1]
