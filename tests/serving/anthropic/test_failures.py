"""What /v1/messages refuses and how it fails, as the anthropic package tells it."""

import anthropic
import pytest
from asked import CALL, MESSAGES, RESULT, WEATHER, ask
from fake_engine import FakeEngine
from served_model import wait_until

from jaxengine import AsyncEngine


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"messages": []}, "empty"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "image"),
        ({"messages": [{"role": "user", "content": [CALL]}]}, "tool_use"),
        ({"messages": [*MESSAGES, {"role": "assistant", "content": [RESULT]}]}, "tool_result"),
        ({"messages": [*MESSAGES, {"role": "assistant", "content": [CALL]}]}, "results of the calls"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "robot"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"extra": {"temperature": -1}}, "temperature"),
        ({"stop_sequences": [""]}, "stop_sequences"),
        ({"output_config": {"format": {"type": "json_schema", "schema": {"type": "no"}}}}, "output_config.format"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "web_search_20250305"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool"}}, "names no tool"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "other"}}, "other"),
        ({"tool_choice": {"type": "any"}}, "no tools"),
        ({"thinking": {"type": "enabled", "budget_tokens": 5}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled"}}, "not known to think"),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, "omitted"),
        ({"extra": {"chat_template_kwargs": {"messages": 1}}}, "chat_template_kwargs"),
        ({"extra": {"mcp_servers": [{}]}}, "mcp_servers"),
        ({"extra": {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}}, "context_management"),
        ({"extra": {"frequency_penalty": 1}}, "frequency_penalty"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_refusals(messages, changes, message, stream):
    with pytest.raises(anthropic.BadRequestError) as caught:
        messages.create(**ask(stream=stream, **changes))
    body = caught.value.body
    assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")
    assert message in body["error"]["message"]


def test_other_failures(connect, serve, messages, served):
    with pytest.raises(anthropic.NotFoundError) as caught:
        messages.create(**ask(model="other"))
    assert caught.value.body["error"]["type"] == "not_found_error"
    assert served.post("/v1/messages", messages=MESSAGES).json()["error"]["message"].count("max_tokens")
    long = [{"role": "user", "content": "word " * 400}]
    for stream in False, True:  # found by the engine
        with pytest.raises(anthropic.BadRequestError, match="context length"):
            messages.create(**ask(messages=long, stream=stream))
    guarded = serve(api_key=("secret",))
    with pytest.raises(anthropic.AuthenticationError) as caught:
        connect(guarded).create(**ask())
    assert (caught.value.body["type"], caught.value.body["error"]["type"]) == ("error", "authentication_error")
    assert "www-authenticate" not in caught.value.response.headers
    assert caught.value.body["request_id"] == caught.value.response.headers["x-request-id"]
    assert connect(guarded, "secret").create(**ask(max_tokens=1)).content


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/v1/messages", 405, "invalid_request_error"),
        ("POST", "/v1/messages/batches", 404, "not_found_error"),
        ("POST", "/v1/messages/count_tokens", 413, "request_too_large"),
    ],
)
def test_failures_of_every_layer_have_one_shape(serve, method, path, status, kind):
    served = serve(max_body_size=1000)
    answer = served.http.request(method, path, json={"messages": ["x" * 1000]} if method == "POST" else None)
    assert (answer.status_code, answer.json()["type"], answer.json()["error"]["type"]) == (status, "error", kind)
    assert status != 405 or answer.headers["allow"] == "POST"
    assert served.http.get("/v1/messagesx").json()["error"]["code"] == 404  # another protocol's


def test_a_failure_in_the_middle_of_a_stream(connect, serve):
    fake = FakeEngine(answer="word " * 100)
    fake.scheduler = type("Scheduler", (), {"max_num_seqs": 8})()
    fake.tokenizer.templates.named["default"] = "{% for m in messages %}<{{ m.content }}>{% endfor %}"
    fake.fail_at = 5
    engine = AsyncEngine(fake)
    client = connect(serve(engine))
    stream = client.create(**ask(stream=True, max_tokens=200))
    first = [next(stream).type for _ in range(3)]
    assert first == ["message_start", "content_block_start", "content_block_delta"]
    with pytest.raises(anthropic.APIStatusError) as caught:
        list(stream)
    assert caught.value.body["error"]["type"] == "overloaded_error"
    with pytest.raises(anthropic.APIStatusError) as caught:
        client.create(**ask(stream=True))
    assert (caught.value.status_code, caught.value.response.headers["retry-after"]) == (503, "10")
    engine.shutdown()


def test_a_client_that_leaves(messages, served):
    stream = messages.create(**ask({"temperature": 1.9}, stream=True, max_tokens=200))
    next(stream)
    stream.close()
    wait_until(lambda: not served.engine.engine.scheduler.has_unfinished() and not served.server.jobs, 5)


def test_the_document(served):
    paths = served.http.get("/openapi.json").json()["paths"]
    for path in "/v1/messages", "/v1/messages/count_tokens":
        (schema,) = [each["schema"] for each in paths[path]["post"]["responses"]["400"]["content"].values()]
        assert schema == {"$ref": "#/components/schemas/MessageError"}
    assert "text/event-stream" in paths["/v1/messages"]["post"]["responses"]["200"]["content"]
