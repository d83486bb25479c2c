"""What /v1/responses refuses, and how it fails."""

import json

import openai
import pytest
from requests_for import LOGPROBS, WEATHER, ask
from served_model import wait_until

IMAGE = {"type": "input_image", "image_url": "x"}


@pytest.mark.parametrize(
    ("changes", "param", "message"),
    [
        ({"input": []}, "input", "empty"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role", "robot"),
        ({"input": [{"role": "user", "content": "x"}, {"type": "computer_call"}]}, "input[1].type", "computer_call"),
        ({"input": [{"role": "user", "content": [IMAGE]}]}, "input[0].content[0].type", "input_image"),
        ({"input": [{"role": "user", "content": 5}]}, "input[0].content", "int"),
        ({"input": [{"role": "user", "content": "x", "color": 1}]}, "input[0]", "color"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input[0]", "call_id"),
        ({"input": [{"type": "reasoning", "encrypted_content": "x"}]}, "input[0].encrypted_content", "null"),
        ({"input": [{"type": "item_reference", "id": "msg_none"}]}, "input[0].id", "msg_none"),
        ({"input": "word " * 400}, "input", "context length"),
        ({"max_output_tokens": 0}, "max_output_tokens", "0"),
        ({"temperature": -1}, "temperature", "-1"),
        ({"top_p": 2}, "top_p", "2"),
        ({"top_logprobs": 2}, "top_logprobs", "include"),
        ({"top_logprobs": 30, "include": LOGPROBS}, "top_logprobs", "30"),
        ({"include": ["file_search_call.results"]}, "include[0]", "file_search_call.results"),
        ({"metadata": {"a": 1}}, "metadata[...]", "int"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "web_search"),
        ({"tools": [{"type": "mcp", "server_label": "x"}]}, "tools[0].type", "mcp"),
        ({"tools": [WEATHER], "tool_choice": {"type": "web_search"}}, "tool_choice", "web_search"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "name": "other"}}, "tool_choice", "other"),
        ({"tool_choice": "required"}, "tool_choice", "no tools"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [[]]}}, "tool_choice", "no list"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": 5}}, "tool_choice", "no list"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", "xml"),
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "no"}}}}, "text.format", "no"),
        ({"text": {"verbosity": "low"}}, "text.verbosity", "low"),
        ({"reasoning": {"effort": "much"}}, "reasoning.effort", "much"),
        ({"reasoning": {"summary": "detailed"}}, "reasoning.summary", "detailed"),
        ({"truncation": "middle"}, "truncation", "middle"),
        ({"conversation": "conv_1"}, "conversation", "previous_response_id"),
        ({"prompt": {"id": "p"}}, "prompt", "instructions"),
        ({"context_management": [{"type": "compaction"}]}, "context_management", "truncation"),
        ({"background": True, "store": False}, "background", "kept"),
        ({"extra": {"stream_options": {"include_obfuscation": False}}}, "stream_options", "no stream"),
        ({"extra": {"n": 2}}, "n", "as many requests"),
        ({"extra": {"max_tokens": 2}}, "max_tokens", "max_output_tokens"),
        ({"extra": {"best_of": 2}}, "best_of", "not supported"),
        ({"extra": {"max_output_token": 2}}, "max_output_token", "max_output_tokens"),
        ({"extra": {"priority": 3}}, "priority", "scheduling-policy"),
        ({"extra": {"timeout": -1}}, "timeout", "above 0"),
        ({"extra": {"chat_template_kwargs": {"messages": 1}}}, "chat_template_kwargs", "field of that name"),
    ],
)
def test_fields(responses, changes, param, message):
    with pytest.raises(openai.BadRequestError) as caught:
        responses.create(**ask(**changes))
    assert caught.value.param == param
    assert message in caught.value.message


def test_others(responses, served):
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        responses.create(**ask(model="other"))
    obfuscated = ask(stream=True, stream_options={"include_obfuscation": True})
    with pytest.raises(openai.BadRequestError, match="include_obfuscation"):
        responses.create(**obfuscated)
    for query in {"includes": "x"}, {"starting_after": 1}, {"stream": "x"}, {"starting_after": -2}:
        kept = responses.create(**ask(max_output_tokens=1)).id
        refused = served.http.get(f"/v1/responses/{kept}", params=query)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, next(iter(query)))
    for query in {"limit": 0}, {"order": "up"}, {"after": "msg_none"}, {"before": "x"}:
        assert served.http.get(f"/v1/responses/{kept}/input_items", params=query).status_code == 400


def test_an_engine_that_fails(scripted):
    """Before the first event with a status of its own, afterwards by the last event."""
    served = scripted("word " * 100)
    client, fake = served.openai.responses, served.fake
    fake.fail_at = 5
    events = list(client.create(**ask(stream=True, max_output_tokens=200)))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[-2:]] == ["response.output_item.done", "response.failed"]
    failed = events[-1].response
    assert (failed.status, failed.error.code, failed.output[0].status) == ("failed", "server_error", "incomplete")
    assert client.retrieve(failed.id).status == "failed"
    for stream in False, True:
        with pytest.raises(openai.APIStatusError) as caught:
            client.create(**ask(stream=stream))
        assert (caught.value.status_code, caught.value.response.headers["retry-after"]) == (503, "10")


def test_the_end_of_its_time(scripted):
    served = scripted("word " * 400)
    client = served.openai.responses
    with pytest.raises(openai.APIStatusError) as caught:
        client.create(**ask({"timeout": 0.001}, max_output_tokens=400))
    assert caught.value.status_code == 408


def test_a_client_that_leaves(responses, served):
    stream = responses.create(**ask(stream=True, temperature=1.9, max_output_tokens=200))
    next(iter(stream))
    stream.close()
    wait_until(lambda: not served.engine.engine.scheduler.has_unfinished() and not served.server.jobs, 5)


def test_keys_and_overload(scripted):
    served = scripted("word " * 100, api_key=("secret",), max_queue_len=0)
    with pytest.raises(openai.AuthenticationError):
        served.openai.responses.create(**ask())
    client = served.openai.with_options(api_key="secret").responses
    served.fake.scheduler.max_num_seqs = 1
    served.fake.gate.clear()
    running = client.create(**ask(background=True))
    for options in {}, {"stream": True}, {"background": True}:
        with pytest.raises(openai.RateLimitError):
            client.create(**ask(**options))
    served.fake.gate.set()
    wait_until(lambda: client.retrieve(running.id).status == "incomplete")


def test_the_document(served):
    document = served.http.get("/openapi.json").json()
    paths = document["paths"]
    assert set(paths["/v1/responses/{response_id}"]) == {"get", "delete"}
    answer = paths["/v1/responses"]["post"]["responses"]["200"]["content"]
    assert answer["application/json"]["schema"] == {"$ref": "#/components/schemas/Response"}
    assert "response.completed" in answer["text/event-stream"]["schema"]["description"]
    assert "input_text" in json.dumps(document["components"]["schemas"]["ResponsesRequest"])
