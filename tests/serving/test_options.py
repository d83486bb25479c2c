"""Every knob is an option with its own help, group and choices, and only what was set is passed on."""

import dataclasses

import pytest

from jaxengine.config import EngineConfig
from jaxengine.request import SamplingParams
from serving.options import SAMPLING


def config(built):
    return built[-1][0]


def test_every_knob_is_in_the_help(invoke):
    text = invoke("generate", "--help", env={"COLUMNS": "200"}).output
    for field in dataclasses.fields(EngineConfig):
        if field.name != "model":
            assert "--" + field.name.replace("_", "-") in text
            assert field.metadata["group"] in text


@pytest.mark.parametrize("spelling", ["--max-num-seqs", "--max_num_seqs"])
def test_spellings(invoke, built, spelling):
    result = invoke("generate", "m", "--prompt", "a", spelling, "7", "-q")
    assert result.exit_code == 0, result.output
    expected = EngineConfig(model="m", max_num_seqs=7, use_tqdm_on_load=False, enforce_eager=True)
    assert config(built) == expected  # `generate` compiles what it needs


def test_kinds_of_values(invoke, built):
    options = ["--no-enable-prefix-caching", "--max-model-len", "16k", "--hf-overrides", '{"a": 1}']
    options += ["-tp", "2", "--gpu-memory-utilization", "0.5", "--logprobs-mode", "raw_logits"]
    result = invoke("generate", "m", "--prompt", "a", *options)
    assert result.exit_code == 0, result.output
    assert config(built) == EngineConfig(
        model="m",
        enable_prefix_caching=False,
        max_model_len="16k",
        hf_overrides={"a": 1},
        tensor_parallel_size=2,
        gpu_memory_utilization=0.5,
        logprobs_mode="raw_logits",
        enforce_eager=True,
    )


@pytest.mark.parametrize("wrong", [["--hf-overrides", "x"], ["--dtype", "int4"], ["--max-num-seqs", "many"]])
def test_wrong_values(invoke, built, wrong):
    assert invoke("generate", "m", "--prompt", "a", *wrong).exit_code == 2
    assert not built


def test_errors_are_one_line(invoke, built):
    result = invoke("generate", "m", "--prompt", "a", "--block-size", "3")
    assert result.exit_code == 1
    assert "block_size" in result.stderr
    assert "Traceback" not in result.output


def test_defaults_of_a_command(invoke, built):
    invoke("bench", "latency", "--num-iters", "1", "--num-iters-warmup", "0", "--output-len", "1")
    assert config(built) == EngineConfig(model="demo", enable_prefix_caching=False)
    invoke("bench", "latency", "--num-iters", "1", "--num-iters-warmup", "0", "--enable-prefix-caching")
    assert config(built) == EngineConfig(model="demo")


def test_sampling_options_are_sampling_params():
    assert set(SAMPLING) <= {field.name for field in dataclasses.fields(SamplingParams)}
