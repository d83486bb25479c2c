"""Keys, request ids, what the log says, and paths that nobody serves."""

import json
import logging

import pytest

from serving.logs import JsonLines

ASK = {"prompt": "x", "max_tokens": 1}


@pytest.fixture(scope="module")
def guarded(serve):
    return serve(api_key=("first", "second"), allowed_origins=("https://a.example",))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer third"},
        {"Authorization": "Bearer"},
        {"Authorization": "Basic first"},
        {"x-api-key": "fir"},
    ],
)
def test_without_a_key_nothing_is_told(guarded, headers):
    for path in ("/v1/models", "/metrics", "/load", "/version", "/openapi.json", "/docs", "/nothing", "/tokenize"):
        answer = guarded.http.get(path, headers=headers)
        assert (answer.status_code, answer.json()["error"]["type"]) == (401, "AuthenticationError")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert guarded.http.post("/v1/completions", json=ASK, headers=headers).status_code == 401


def test_probes_need_no_key(guarded):
    assert all(guarded.http.get(path).status_code == 200 for path in ("/health", "/ready", "/live", "/ping"))


def test_behind_a_proxy_too(serve):
    """uvicorn puts the path that a proxy cuts off before the one that comes."""
    served = serve(api_key=("first",), root_path="/llm")
    assert all(served.http.get(path).status_code == 200 for path in ("/health", "/"))
    assert served.http.get("/v1/models").json()["error"]["type"] == "AuthenticationError"
    assert served.http.get("/v1/messages").json()["type"] == "error"


@pytest.mark.parametrize(
    "headers", [{"Authorization": "Bearer first"}, {"authorization": "bearer second"}, {"x-api-key": "second"}]
)
def test_any_of_the_keys_opens(guarded, headers):
    assert guarded.http.get("/v1/models", headers=headers).status_code == 200


def test_other_sites(guarded):
    asks = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    answer = guarded.http.options("/v1/completions", headers=asks)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "https://a.example")
    assert guarded.http.options("/v1/completions", headers={**asks, "Origin": "https://b.example"}).status_code == 400


def test_request_ids(served):
    given = served.http.post("/v1/completions", json=ASK, headers={"X-Request-Id": "abc"})
    assert (given.headers["x-request-id"], given.json()["id"]) == ("abc", "cmpl-abc")
    named = served.post("/v1/completions", **ASK, request_id="mine")
    assert named.json()["id"] == "cmpl-mine"
    assert len(served.http.get("/nothing").headers["x-request-id"]) == 32
    assert served.http.get("/health", headers={"X-Request-Id": "a b"}).headers["x-request-id"] != "a b"


def test_a_line_for_each_request(served, caplog):
    with caplog.at_level(logging.INFO, logger="serving.front"):
        served.http.post("/v1/completions", json={**ASK, "prompt": "a secret"}, headers={"X-Request-Id": "the-id"})
        served.http.get("/health")
    (record,) = [record for record in caplog.records if record.name == "serving.front"]
    line = json.loads(JsonLines().format(record))
    assert (line["request_id"], line["status"], line["route"]) == ("the-id", 200, "/v1/completions")
    assert "secret" not in record.getMessage()


def test_paths_and_methods_that_are_none(served):
    for answer, status in ((served.http.get("/nothing"), 404), (served.http.get("/v1/completions"), 405)):
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, status)
    assert served.http.get("/v1/completions").headers["allow"] == "POST"
