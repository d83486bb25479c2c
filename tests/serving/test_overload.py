"""More requests than there is room for, and requests that take too long."""

import json
import os
import threading
from types import SimpleNamespace

import pytest
from fake_engine import FakeEngine
from served_model import wait_until

from jaxengine import AsyncEngine
from jaxengine.request import CompletionOutput, RequestOutput
from serving.shared_counts import SharedCounts

ASK = {"prompt": "x", "max_tokens": 3}


@pytest.fixture
def fake():
    """Runs two sequences at a time, as far as it says."""
    fake = FakeEngine(answer="word " * 100)
    fake.scheduler = SimpleNamespace(max_num_seqs=2)
    fake.engine = AsyncEngine(fake)
    yield fake
    fake.gate.set()
    fake.engine.shutdown()


def ask_many(served, number, **body):
    """Answers that come when the gate opens."""
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(served.post("/v1/completions", **ASK, **body)))
        for _ in range(number)
    ]
    for thread in threads:
        thread.start()
    return answers, threads


def test_the_line_has_an_end(serve, fake):
    served = serve(fake.engine, max_queue_len=3)
    fake.gate.clear()
    answers, threads = ask_many(served, 5)  # two run, three wait
    wait_until(lambda: served.server.admission.counts.own == 5)
    assert served.http.get("/load").json() == {"server_load": 5, "waiting": 3}
    for stream in (False, True):
        late = served.post("/v1/completions", **ASK, stream=stream)
        assert (late.status_code, late.json()["error"]["type"]) == (429, "TooManyRequestsError")
        assert 1 <= int(late.headers["retry-after"]) <= 60
    for path in ("completions", "chat/completions", "messages", "responses"):
        assert served.http.post(f"/v1/{path}", content=b"{").status_code == 429  # before anybody has read it
    fake.gate.set()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * 5
    assert served.http.get("/load").json() == {"server_load": 0, "waiting": 0}
    assert served.post("/v1/completions", **ASK).status_code == 200


def test_several_processes_have_one_line(serve, fake):
    """Two servers of one engine stand for them."""
    counts = SharedCounts.make(2)
    one, other = (serve(fake.engine, counts=SharedCounts(counts.file, 2, place), max_queue_len=3) for place in (0, 1))
    fake.gate.clear()
    asked = [ask_many(served, number) for served, number in ((one, 3), (other, 2))]
    wait_until(lambda: counts.total == 5)
    for served in (one, other):
        assert served.http.get("/load").json()["waiting"] == 3
        assert served.post("/v1/completions", **ASK).status_code == 429
    counts.clear(1)  # as if that one had died
    asked.append(ask_many(one, 1))
    wait_until(lambda: counts.total == 4)
    fake.gate.set()
    for answers, threads in asked:
        for thread in threads:
            thread.join()
        assert [answer.status_code for answer in answers] == [200] * len(threads)
    os.close(counts.file)


def test_a_full_engine_is_believed(serve, fake):
    """Pages may run out long before there are as many sequences as could run."""
    served = serve(fake.engine, max_queue_len=1)
    fake.scheduler.max_num_seqs = 100
    fake.gate.clear()
    answers, threads = ask_many(served, 2)
    wait_until(lambda: served.server.admission.counts.own == 2)
    fake.metrics.num_requests_running.set(1)
    fake.metrics.num_requests_waiting.set(1)
    assert served.post("/v1/completions", **ASK).status_code == 429
    fake.gate.set()
    for thread in threads:
        thread.join()
    assert len(answers) == 2


def test_waiting_has_an_end(serve, fake):
    served = serve(fake.engine, queue_timeout=0.2)
    fake.gate.clear()
    for stream in (False, True):
        late = served.post("/v1/completions", **ASK, stream=stream)
        assert (late.status_code, "no token within 0.2 s" in late.json()["error"]["message"]) == (429, True)
    fake.gate.set()
    wait_until(lambda: not fake.running)
    answer = served.post("/v1/completions", **ASK, n=2, logprobs=1)  # which is put together from its tokens
    assert [choice["text"] for choice in answer.json()["choices"]] == ["wor"] * 2
    assert all(len(choice["logprobs"]["tokens"]) == 3 for choice in answer.json()["choices"])


@pytest.mark.parametrize("stream", [False, True])
def test_an_end_before_the_first_token(serve, fake, stream):
    """The prompt's logprobs are missing then, and nothing else."""
    served = serve(fake.engine)
    fake.add = lambda *arguments, **options: None  # it never runs
    answers, (thread,) = ask_many(served, 1, echo=True, logprobs=1, stream=stream)
    wait_until(lambda: served.server.jobs)
    (job,) = served.server.jobs
    wait_until(lambda: fake.engine._streams)
    end = CompletionOutput(0, "", [], 0.0, [], "abort")
    stream = fake.engine._streams[job.ids[0]]
    output = RequestOutput(job.ids[0], "ab", [5, 6], None, [end], True)
    served.loop.call_soon_threadsafe(stream.queue.put_nowait, output)
    thread.join(10)
    text = answers[0].text.removeprefix("data: ").partition("\n")[0]
    (choice,) = json.loads(text)["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("ab", "abort")
    assert choice["logprobs"]["token_logprobs"] == [None, None]


def test_nothing_new_while_the_server_ends(serve, fake):
    served = serve(fake.engine)
    fake.gate.clear()
    answers, (thread,) = ask_many(served, 1)
    wait_until(lambda: served.server.admission.requests == 1)
    served.http.get("/live")  # a connection that stays
    served.server.admission.draining = True
    assert served.http.get("/ready").status_code == 503
    assert served.post("/v1/completions", **ASK).status_code == 503
    fake.gate.set()
    thread.join()
    assert answers[0].status_code == 200


def test_several_requests_may_have_one_id(serve, fake):
    served = serve(fake.engine)
    fake.gate.clear()
    answers, threads = ask_many(served, 2, request_id="same")
    wait_until(lambda: served.server.admission.requests == 2)
    fake.gate.set()
    for thread in threads:
        thread.join()
    assert [answer.json()["id"] for answer in answers] == ["cmpl-same"] * 2
