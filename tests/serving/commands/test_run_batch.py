"""`jaxengine run-batch`: good and bad lines, in this process and against a server."""

import json

import pytest
from served_model import ENGINE

COMPLETE = {"prompt": "The capital of France is", "max_tokens": 3, "temperature": 0}
CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "ignore_eos": True}


def line(name, url="/v1/completions", body=None, **changes):
    return {"custom_id": name, "method": "POST", "url": url, "body": body or COMPLETE, **changes}


LINES = [
    line("text"),
    line("chat", "/v1/chat/completions", CHAT),
    line("response", "/v1/responses", {"input": "hi", "max_output_tokens": 2, "store": False}),
    line("refused", body={**COMPLETE, "top_p": 7}),
    line("unknown", body={**COMPLETE, "model": "other"}),
    line("place", "/v1/nowhere"),
    line("method", method="GET"),
    line("stream", body={**COMPLETE, "stream": True}),
    line("body", body="x"),
    line(7),
    [],
]


@pytest.fixture
def asked(tmp_path):
    text = "\n\n".join(map(json.dumps, LINES)) + "\n{\n"
    (tmp_path / "in.jsonl").write_text(text)
    return "-i", tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl"


def check(result, file):
    assert result.exit_code == 0, result.output
    assert "3 requests answered, 9 failed" in result.stderr
    answers = [json.loads(text) for text in file.read_text().splitlines()]
    assert len(answers) == len(LINES) + 1
    assert all(set(answer) == {"id", "custom_id", "response", "error"} for answer in answers)
    named = {answer["custom_id"]: answer for answer in answers if answer["custom_id"]}
    assert named["text"]["response"]["status_code"] == 200
    assert named["text"]["response"]["request_id"]
    assert named["text"]["error"] is None
    assert named["chat"]["response"]["body"]["usage"]["completion_tokens"] == 2
    assert named["response"]["response"]["body"]["usage"]["output_tokens"] <= 2
    assert [named[name]["response"]["status_code"] for name in ("refused", "unknown")] == [400, 404]
    assert "top_p" in named["refused"]["response"]["body"]["error"]["message"]
    for name in ("place", "method", "stream", "body"):
        assert named[name]["response"] is None
        assert name.replace("place", "url") in named[name]["error"]["message"]
    return named


@pytest.mark.parametrize("limit", [1, 100])
def test_against_a_server(invoke, served, asked, limit):
    result = invoke("run-batch", *asked, "--url", served.url, "--max-concurrency", limit)
    assert check(result, asked[-1])["text"]["response"]["body"]["choices"][0]["text"] == " Paris. The"


def test_in_this_process(invoke, asked):
    small = [word for name, value in ENGINE.items() if name != "use_tqdm_on_load" for word in option(name, value)]
    result = invoke("run-batch", *asked, "--model", "demo", *small)
    assert check(result, asked[-1])["text"]["response"]["body"]["choices"][0]["text"] == " Paris. The"


def option(name, value):
    flag = "--" + name.replace("_", "-")
    return [flag] if value is True else [flag, value]


def test_a_server_that_is_not_there(invoke, asked):
    result = invoke("run-batch", *asked, "--url", "http://127.0.0.1:9")
    assert "0 requests answered, 12 failed" in result.stderr


def test_what_is_wrong(invoke, served, asked):
    assert invoke("run-batch", *asked).exit_code == 2
    assert invoke("run-batch", *asked, "--url", served.url, "--model", "m").exit_code == 2
    assert invoke("run-batch", *asked, "--url", served.url, "--max-num-seqs", 3).exit_code == 2
    result = invoke("run-batch", "-i", "/nowhere/in", *asked[2:], "--url", served.url)
    assert (result.exit_code, "/nowhere/in" in result.stderr) == (1, True)
