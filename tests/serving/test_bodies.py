"""Bodies that are no requests: each is answered with a 4xx that says what is wrong."""

import msgspec
import pytest

from serving.bodies import decode
from serving.errors import Refusal
from serving.openai.chat_request import ChatRequest
from serving.openai.completions import CompletionRequest

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"nonsense", b"[]", b"null", b"1", b'{"prompt": NaN}', b'{"prompt": "\xff"}',
        b'{"prompt": "\\ud800"}', b'{"prompt": "a", "temperature": 1e999}',
        b'{"prompt": 5}', b'{"prompt": "a", "n": 1.5}', b'{"prompt": "a", "n": true}',
        b'{"max_tokens": 3}', b'{"prompt": "a", "stop": [1]}', b'{"prompt": "a", "stream": "yes"}',
        b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}", b'{"prompt": [[1, "a"]]}', b'{"prompt": "a", "x\\u0000": 1}',
        b'{"prompt": "a", "truncation_side": "middle"}', b'{"prompt": "a", "logit_bias": [1]}',
    ],
)  # fmt: skip
def test_bodies_that_are_none(body):
    with pytest.raises(Refusal) as caught:
        decode(body, CompletionRequest)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "body", [b'{"metadata": ' + b"[" * 100_000, b'{"metadata": ' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}"]
)
def test_deep_nesting(served, body):
    answer = served.http.post("/v1/chat/completions", content=body, headers=JSON)
    assert (answer.status_code, "nested too deeply" in answer.json()["error"]["message"]) == (400, True)


def test_deep_messages_reach_no_template(served):
    deep = "0"
    for _ in range(400):
        deep = f'{{"a": [{deep}]}}'
    body = f'{{"max_tokens": 1, "messages": [{{"role": "user", "content": "x", "extra": {deep}}}]}}'
    assert served.http.post("/v1/chat/completions", content=body, headers=JSON).status_code in (200, 400)


def test_the_field_is_named():
    with pytest.raises(Refusal, match="messages") as caught:
        decode(b'{"messages": 3}', ChatRequest)
    assert caught.value.param == "messages"
    with pytest.raises(Refusal) as caught:
        decode(b'{"messages": [{}, 3]}', ChatRequest)
    assert caught.value.param == "messages[1]"


def test_every_field_of_the_schema_is_read():
    schema = msgspec.json.schema(ChatRequest)["$defs"]["ChatRequest"]["properties"]
    neutral = {name: None for name in schema if name != "messages"}
    assert decode(msgspec.json.encode({"messages": [], **neutral}), ChatRequest).messages == []


def test_content_types(served):
    for kind in ("text/plain", "application/x-www-form-urlencoded", None):
        headers = {} if kind is None else {"content-type": kind}
        answer = served.http.post("/v1/completions", content=b'{"prompt": "a"}', headers=headers)
        assert (answer.status_code, "application/json" in answer.json()["error"]["message"]) == (400, True)
    good = {"content-type": "Application/JSON; charset=utf-8"}
    assert served.http.post("/tokenize", content=b'{"prompt": "a"}', headers=good).status_code == 200


def test_bodies_have_a_limit(serve):
    served = serve(max_body_size=1000)

    def pieces():
        for _ in range(10):
            yield b" " * 500

    for content in (b" " * 1001, pieces()):
        answer = served.http.post("/v1/completions", content=content, headers=JSON)
        assert (answer.status_code, answer.json()["error"]["type"]) == (413, "RequestTooLargeError")
    assert served.post("/tokenize", prompt="a" * 900).status_code == 200
