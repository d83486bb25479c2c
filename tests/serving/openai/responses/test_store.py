"""The bounds of the store, and what holds beyond them."""

import contextlib
import time

import pytest

from serving.errors import Refusal
from serving.openai.responses import wire
from serving.openai.responses.items import InputText, MessageItem, OutputText
from serving.openai.responses.request import ReasoningConfig, TextConfig
from serving.openai.responses.store import Kept, Store

DAY = 86400.0


def entry(name, *, previous=None, text="text", status="completed"):
    response = wire.Response(
        id=name, created_at=0, status=status, background=False, store=True, model="m", instructions=None,
        previous_response_id=None, max_output_tokens=None, max_tool_calls=None, metadata={}, parallel_tool_calls=True,
        prompt_cache_key=None, reasoning=ReasoningConfig(), safety_identifier=None, temperature=1, text=TextConfig(),
        tool_choice="auto", tools=[], top_logprobs=0, top_p=1, truncation="disabled", user=None,
        output=[MessageItem(id=f"{name}-out", role="assistant", content=[OutputText(text=text)])],
    )  # fmt: skip
    return Kept(response, [MessageItem(id=f"{name}-in", role="user", content=[InputText(text=text)])], previous)


def names(store):
    """Of all that can be found."""
    found = []
    for name in [*"abc", *map(str, range(100)), "long"]:
        with contextlib.suppress(Refusal):
            found.append(store.find(name).response.id)
    return found


def test_number():
    store = Store(2, 1 << 20, DAY)
    for name in "abc":
        store.keep(entry(name))
    assert names(store) == ["b", "c"]
    assert (store.item("a-in"), store.item("a-out")) == (None, None)
    assert store.item("c-in").content[0].text == "text"
    with pytest.raises(Refusal, match="gave place") as caught:
        store.find("a")
    assert caught.value.status == 404


def test_bytes():
    store = Store(100, 20_000, DAY)
    for number in range(100):
        store.keep(entry(str(number), text="x" * 1000))
        assert store.bytes <= 20_000
    assert 4 <= len(names(store)) <= 10
    store.keep(entry("long", text="x" * 20_000))
    assert (names(store), store.bytes) == ([], 0)


def test_age(monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    store = Store(9, 1 << 20, 10.0)
    store.keep(entry("a"))
    now = 5.0
    store.keep(entry("b"))
    now = 10.0
    assert store.item("a-in") is None
    assert names(store) == ["b"]


def test_deletion():
    store = Store(9, 1 << 20, DAY)
    store.keep(entry("a"))
    store.delete("a")
    store.delete("a")
    assert (names(store), store.bytes, store.item("a-out")) == ([], 0, None)


def test_a_conversation_outlives_its_beginning_and_counts_it():
    store = Store(1, 1 << 20, DAY)
    last = None
    for name in "abc":
        last = entry(name, previous=last)
        store.keep(last)
    kept = store.find("c")
    assert [item.id for item in kept.conversation()] == ["a-in", "a-out", "b-in", "b-out", "c-in", "c-out"]
    assert store.bytes == kept.size > 2 * entry_size()


def entry_size():
    store = Store(1, 1 << 20, DAY)
    store.keep(entry("a"))
    return store.bytes


def test_items_that_two_responses_have():
    """Clients send back what they got, under its name."""
    store = Store(9, 1 << 20, DAY)
    first, second = entry("a"), entry("b")
    second.input = [*first.items, *second.input]
    store.keep(first)
    store.keep(second)
    store.delete("a")
    assert store.item("a-out") is first.items[1]
    store.delete("b")
    assert store.item("a-out") is None


def test_those_in_the_background():
    store = Store(1, 1 << 20, DAY)
    running = entry("a", status="queued")
    store.start(running)
    store.keep(entry("b"))
    assert (store.find("a"), store.find("b").running) == (running, False)
    with pytest.raises(Refusal) as caught:
        store.start(entry("c", status="queued"))
    assert caught.value.status == 429
    running.response.status = "completed"
    store.keep(running)
    assert names(store) == ["a"]
