"""`jaxengine chat --url` and `complete`: a server's model in the terminal."""

import pytest

ASK = ("--prompt", "The capital of France is", "--max-tokens", 3, "--temperature", 0)


@pytest.fixture(scope="module")
def guarded(serve):
    return serve(api_key=("secret",))


def test_complete(invoke, served, guarded):
    for url in (served.url, f"{served.url}/v1/"):
        result = invoke("complete", "--url", url, *ASK)
        assert (result.exit_code, result.stdout) == (0, " Paris. The\n"), result.output
    result = invoke("complete", "--url", guarded.url, "--api-key", "secret", *ASK, *ASK[:2], "--stop", ".")
    assert result.stdout == " Paris\n Paris\n"


def test_complete_asks_for_prompts(invoke, served):
    result = invoke("complete", "--url", served.url, *ASK[2:], input=f"{ASK[1]}\n{'x ' * 900}\n{ASK[1]}\n")
    assert result.exit_code == 0, result.output
    assert result.stdout.count(" Paris. The\n") == 2
    assert "status 400" in result.stdout


def test_failures(invoke, guarded):
    for command in (("complete", *ASK), ("chat", "-q", "hi")):
        result = invoke(*command, "--url", guarded.url)
        assert (result.exit_code, "API key" in result.stderr) == (1, True)
        result = invoke(*command, "--url", "http://127.0.0.1:9")
        assert (result.exit_code, "http://127.0.0.1:9" in result.stderr) == (1, True)


def test_chat(invoke, guarded):
    url = ("--url", f"{guarded.url}/v1", "--api-key", "secret")
    result = invoke("chat", *url, "-q", "hi", "--max-tokens", 4, "--ignore-eos")
    assert result.exit_code == 0, result.output
    assert "4 tokens" in result.stdout
    result = invoke("chat", *url, "--max-tokens", 4, input=f"hi\n{'x ' * 900}\nmore\n")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("tok/s") == 2
    assert "status 400" in result.stdout


def test_chat_needs_a_model_or_a_server(invoke, served):
    assert invoke("chat", "-q", "hi").exit_code == 2
    assert invoke("chat", "--url", served.url, "--max-num-seqs", 3).exit_code == 2
