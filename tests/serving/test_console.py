"""The console in a real browser: it loads without a network, chats, draws, and asks for a key where one is wanted."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright")
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that notes what it asks for and what goes wrong in it."""
    page = browser.new_page()
    page.requested, page.problems = [], []
    page.on("request", lambda request: page.requested.append(request.url))
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda message: page.problems.append(message.text) if message.type == "error" else None)
    yield page
    page.close()


def test_a_chat_and_the_load(page: Any, served: Any) -> None:
    page.goto(served.url + "/")
    sync_api.expect(page.locator("#state")).to_have_text("live")
    assert "KV pool" in page.locator("#memory").inner_text()
    page.locator("summary").click()
    page.locator("#temperature").fill("0")
    page.locator("#max_tokens").fill("8")
    page.locator("#input").fill("What is the capital of France?")
    page.locator("#send").click()
    answer = page.locator(".turn", has_text="assistant")
    sync_api.expect(answer).to_contain_text("Paris")
    sync_api.expect(page.locator("#send")).to_be_enabled()
    sync_api.expect(page.locator(".plot .now").first).to_contain_text("tok/s")
    page.locator("#input").fill("And of Italy?")
    page.keyboard.press("Enter")
    sync_api.expect(page.locator(".turn", has_text="assistant")).to_have_count(2)
    assert page.problems == []
    assert all(url.startswith(served.url) for url in page.requested), "it needs no network"


def test_an_answer_is_stopped(page: Any, served: Any) -> None:
    page.goto(served.url + "/")
    sync_api.expect(page.locator("#state")).to_have_text("live")
    page.route("**/v1/chat/completions", lambda route: None)  # an answer that never comes
    page.locator("#input").fill("Tell me everything.")
    page.locator("#send").click()
    page.locator("#stop").click()
    sync_api.expect(page.locator("#send")).to_be_enabled()
    assert page.locator(".error").count() == 0


def test_a_call_is_answered_by_the_reader(page: Any, served: Any) -> None:
    """The server's part is played: the demo model calls no tools by itself."""
    call = '{"index": 0, "id": "c", "function": {"name": "weather", "arguments": "{\\"city\\": \\"Rome\\"}"}}'
    first = f'data: {{"choices": [{{"delta": {{"tool_calls": [{call}]}}}}]}}\n\ndata: [DONE]\n\n'
    second = 'data: {"choices": [{"delta": {"content": "It is sunny."}}]}\n\ndata: [DONE]\n\n'
    asked: list[Any] = []

    def answer(route: Any) -> None:
        asked.append(route.request.post_data_json)
        route.fulfill(content_type="text/event-stream", body=second if len(asked) > 1 else first)

    page.route("**/v1/chat/completions", answer)
    page.on("dialog", lambda dialog: dialog.accept("sunny"))
    page.goto(served.url + "/")
    sync_api.expect(page.locator("#state")).to_have_text("live")
    page.locator("#input").fill("How is the weather in Rome?")
    page.locator("#send").click()
    sync_api.expect(page.locator(".turn", has_text="assistant")).to_contain_text("It is sunny.")
    assert [message["role"] for message in asked[1]["messages"]] == ["user", "assistant", "tool"]
    assert asked[1]["messages"][2] == {"role": "tool", "tool_call_id": "c", "content": "sunny"}


def test_tools_that_are_no_json_are_told(page: Any, served: Any) -> None:
    page.goto(served.url + "/")
    sync_api.expect(page.locator("#state")).to_have_text("live")
    page.locator("summary").click()
    page.locator("#tools").fill("not JSON")
    page.locator("#input").fill("x")
    page.locator("#send").click()
    sync_api.expect(page.locator(".error")).to_be_visible()


def test_a_key_is_asked_for(page: Any, serve: Any) -> None:
    guarded = serve(api_key=("secret",))
    page.on("dialog", lambda dialog: dialog.accept("secret"))
    page.goto(guarded.url + "/")
    sync_api.expect(page.locator("#state")).to_have_text("this server wants an API key")
    page.locator("#key").click()
    sync_api.expect(page.locator("#state")).to_have_text("live")
