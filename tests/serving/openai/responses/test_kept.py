"""Responses that are kept, and those in the background: following them, cancelling, deleting, and the server's end."""

import time

import openai
import pytest
from requests_for import ask
from served_model import wait_until

from jaxengine.request import InvalidRequest
from serving.config import ServerConfig


def ended(client, id):
    wait_until(lambda: client.retrieve(id).status not in ("queued", "in_progress"))
    return client.retrieve(id)


def test_kept_until_deleted(responses):
    answer = responses.create(**ask())
    assert responses.retrieve(answer.id) == answer
    streamed = list(responses.create(**ask(stream=True)))[-1].response
    assert responses.retrieve(streamed.id) == streamed
    responses.delete(answer.id)
    for look in responses.retrieve, responses.delete, responses.cancel, responses.input_items.list:
        with pytest.raises(openai.NotFoundError, match="was deleted"):
            look(answer.id)
    with pytest.raises(openai.NotFoundError) as caught:
        responses.create(**ask(previous_response_id=answer.id))
    assert caught.value.param == "previous_response_id"
    unkept = responses.create(**ask(store=False))
    with pytest.raises(openai.NotFoundError, match="never stored"):
        responses.retrieve(unkept.id)


def test_input_items_in_pages(responses):
    given = [{"role": "user", "content": str(number)} for number in range(5)]
    answer = responses.create(**ask(input=given))
    assert [item.content[0].text for item in responses.input_items.list(answer.id, limit=2)] == list("43210")
    page = responses.input_items.list(answer.id, limit=2, order="asc")
    assert [item.content[0].text for item in page.data] == ["0", "1"]
    assert (page.has_more, page.first_id, page.last_id) == (True, page.data[0].id, page.data[1].id)
    rest = responses.input_items.list(answer.id, order="asc", after=page.last_id)
    assert ([item.content[0].text for item in rest.data], rest.has_more) == (["2", "3", "4"], False)


def test_in_the_background(scripted):
    served = scripted("one two three")
    client = served.openai.responses
    served.fake.gate.clear()
    begun = client.create(**ask(background=True, max_output_tokens=100))
    assert (begun.status, begun.background, begun.output) == ("queued", True, [])
    assert client.retrieve(begun.id).status == "queued"
    with pytest.raises(openai.BadRequestError, match="still running"):
        client.create(**ask(previous_response_id=begun.id))
    served.fake.gate.set()
    answer = ended(client, begun.id)
    assert (answer.status, answer.output_text) == ("completed", "one two three")
    events = list(client.retrieve(begun.id, stream=True))
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds[:4] == ["created", "queued", "in_progress", "output_item.added"]
    assert [event.response.status for event in events[:3]] == ["queued", "queued", "in_progress"]
    assert (kinds[-1], events[-1].response) == ("completed", answer)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert client.cancel(begun.id) == answer


def test_followed_from_where_one_left(scripted):
    served = scripted("one two three")
    client = served.openai.responses
    with client.create(**ask(background=True, stream=True, max_output_tokens=100)) as stream:
        seen = [event for _, event in zip(range(4), stream, strict=False)]  # the client leaves
    with client.stream(response_id=seen[0].response.id, starting_after=3) as stream:  # it accumulates from the start
        rest = list(stream)
        answer = stream.get_final_response()
    assert [event.sequence_number for event in rest] == list(range(4, 4 + len(rest)))
    assert (answer.output_text, served.server.admission.requests) == ("one two three", 0)
    late = client.retrieve(answer.id, stream=True, starting_after=rest[-2].sequence_number)
    assert [event.type for event in late] == ["response.completed"]
    plain = client.create(**ask())
    with pytest.raises(openai.BadRequestError, match="not made in the background"):
        client.retrieve(plain.id, stream=True)
    with pytest.raises(openai.BadRequestError, match="not made in the background"):
        client.cancel(plain.id)


@pytest.mark.parametrize("begun", [False, True])
def test_cancelled(scripted, begun):
    served = scripted("word " * 100)
    client, step = served.openai.responses, served.fake.step
    served.fake.step = lambda: (time.sleep(0.01), step())[1]
    if not begun:
        served.fake.gate.clear()
    stream = client.create(**ask(background=True, stream=True, max_output_tokens=500))
    first = next(iter(stream))
    if begun:
        while next(stream).type != "response.output_text.delta":
            pass
        served.fake.gate.clear()
    gone = client.cancel(first.response.id)
    served.fake.gate.set()
    assert gone.status == client.retrieve(gone.id).status == "cancelled"
    last = list(stream)[-1]
    assert (last.type, last.response) == ("response.incomplete", gone)
    assert [item.status for item in gone.output] == ["incomplete"] * begun
    wait_until(lambda: not served.fake.running and not served.server.jobs)
    assert served.server.admission.requests == 0


def test_deleted_while_it_runs(scripted):
    served = scripted("word " * 100)
    client = served.openai.responses
    served.fake.gate.clear()
    begun = client.create(**ask(background=True))
    client.delete(begun.id)
    served.fake.gate.set()
    with pytest.raises(openai.NotFoundError):
        client.retrieve(begun.id)
    wait_until(lambda: not served.fake.running and not served.server.tasks)


def test_a_failure_in_the_background(scripted):
    served = scripted("word " * 100)
    client = served.openai.responses
    unfit = client.create(**ask(input="word " * 800, background=True))
    failed = ended(client, unfit.id)
    assert (failed.status, failed.error.code, failed.error.param) == ("failed", "invalid_prompt", "input")
    assert "context length" in failed.error.message
    served.fake.fail_at = served.fake.steps + 3
    failed = ended(client, client.create(**ask(background=True)).id)
    assert (failed.status, failed.error.code, failed.output[0].status) == ("failed", "server_error", "incomplete")
    events = list(client.retrieve(failed.id, stream=True))
    assert (events[-1].type, events[-1].response) == ("response.failed", failed)


def test_only_so_many_in_the_background(scripted):
    served = scripted("word " * 100, responses_store_size=1)
    client = served.openai.responses
    served.fake.gate.clear()
    first = client.create(**ask(background=True))
    with pytest.raises(openai.RateLimitError, match="in the background already"):
        client.create(**ask(background=True))
    assert served.server.admission.requests == 1
    served.fake.gate.set()
    ended(client, first.id)
    second = client.create(**ask())
    assert client.retrieve(second.id) == second
    with pytest.raises(openai.NotFoundError, match="gave place"):
        client.retrieve(first.id)


def test_a_server_that_keeps_nothing(scripted):
    client = scripted("one two three", responses_store_size=0).openai.responses
    answer = client.create(**ask())
    assert (answer.status, answer.model_extra["store"]) == ("incomplete", False)
    for field in "store", "background":
        with pytest.raises(openai.BadRequestError) as caught:
            client.create(**ask(**{field: True}))
        assert (caught.value.param, "--responses-store-size" in caught.value.message) == (field, True)
    for call in lambda: client.retrieve(answer.id), lambda: client.create(**ask(previous_response_id=answer.id)):
        with pytest.raises(openai.NotFoundError, match="keeps none"):
            call()


def test_several_processes_keep_nothing():
    from serving.openai.responses.store import Store

    assert Store.of(ServerConfig(api_server_count=2)).size == 0
    assert Store.of(ServerConfig()).size > 0
    with pytest.raises(InvalidRequest, match="responses_store_size"):
        ServerConfig(api_server_count=2, responses_store_size=5)


def test_the_server_waits_for_what_runs_in_the_background(scripted):
    served = scripted("one two three")
    served.fake.gate.clear()
    served.openai.responses.create(**ask(background=True, max_output_tokens=100))
    wait_until(lambda: served.fake.running)
    (task,) = served.server.tasks
    served.http.close()
    served.openai.close()
    served.http_server.should_exit = True
    served.thread.join(0.5)
    assert served.thread.is_alive()
    served.fake.gate.set()
    served.thread.join(30)
    assert not served.thread.is_alive()
    assert (task.done(), task.cancelled()) == (True, False)
