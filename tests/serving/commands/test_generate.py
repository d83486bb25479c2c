"""`jaxengine generate`: where prompts come from and how outputs are written."""

import json

from fake_engine import ANSWER

OPTIONS = ("--quiet", "--max-tokens", 100)


def test_one_prompt(invoke, built):
    result = invoke("generate", "m", "--prompt", "the", *OPTIONS)
    assert result.exit_code == 0, result.output
    assert result.stdout == ANSWER + "\n"


def test_files_and_json(invoke, built, tmp_path):
    (tmp_path / "p.txt").write_text("one\n\ntwo\n")
    (tmp_path / "p.jsonl").write_text('{"prompt": "three", "cache_salt": "s"}\n[3, 4]\n')
    for file, prompts in (("p.txt", ["zero", "one", "two"]), ("p.jsonl", ["zero", "three", None])):
        result = invoke("generate", "m", "-p", "zero", "-f", tmp_path / file, "--json", *OPTIONS)
        lines = [json.loads(line) for line in result.stdout.splitlines()]
        assert [line["prompt"] for line in lines] == prompts
        assert lines[0]["outputs"][0]["text"] == ANSWER
        assert lines[0]["outputs"][0]["finish_reason"] == "stop"


def test_standard_input(invoke, built):
    result = invoke("generate", "m", "-f", "-", *OPTIONS, input="one\ntwo\n")
    assert result.stdout.count(ANSWER) == 2
    assert "--- 2: two" in result.stdout


def test_sampling_and_n(invoke, built):
    invoke("generate", "m", "-p", "a", "-n", 2, "--stop", "é", "--stop", "x", "--top_p", 0.5, "--ignore-eos", "-q")
    params = built[0][1].seen[0][2]
    assert (params.n, params.stop, params.top_p, params.ignore_eos) == (2, ["é", "x"], 0.5, True)
    assert (params.temperature, params.max_tokens) == (0.5, 8)  # the model's


def test_chat(invoke, built):
    invoke("generate", "m", "-p", "hi", "--chat", *OPTIONS)
    fake = built[0][1]
    assert fake.tokenizer.decode(fake.seen[0][1]) == "<hi>"


def test_errors(invoke, built, tmp_path):
    assert invoke("generate", "m").exit_code == 2
    assert invoke("generate", "m", "-f", tmp_path / "none").exit_code == 2
    assert invoke("generate", "m", "-p", "a", "--temperature", "-1").exit_code == 1
    assert built[-1][1].closed
