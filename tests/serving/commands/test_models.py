"""`jaxengine models`: what the registry knows, found by name."""

import json

from jaxengine import native_models


def test_all_of_them(invoke):
    listed = json.loads(invoke("models", "--json").stdout)
    assert [model["architecture"] for model in listed] == [model.architecture for model in native_models()]
    assert {"LlamaForCausalLM", "Gemma2ForCausalLM", "GPT2LMHeadModel"} <= {model["architecture"] for model in listed}
    assert "google/gemma-2-2b-it" in invoke("models").stdout


def test_one_by_its_name_or_a_checkpoint(invoke):
    for text in ("gemma2", "gemma-2-27b"):
        (found,) = json.loads(invoke("models", text, "--json").stdout)
        assert found["architecture"] == "Gemma2ForCausalLM"
        assert "softcaps" in found["note"]


def test_none(invoke):
    result = invoke("models", "bert")
    assert result.exit_code == 1
    assert "No native architecture or checkpoint has 'bert' in its name." in result.stderr
