"""The command as a user runs it: a process of its own, the packaged model."""

import json
import os
import subprocess
import sys

import pytest
from test_offline import ENGINE

from jaxengine import LLM, SamplingParams
from serving.commands.bench.startup import run_child

SMALL = ["--max-model-len", "128", "--max-num-seqs", "2", "--max-num-batched-tokens", "32", "--enforce-eager"]


@pytest.mark.slow
def test_generate(tmp_path):
    command = [sys.executable, "-m", "serving.cli", "generate", "demo", "--prompt", "Hello", "--json", "--quiet"]
    command += [*SMALL, "--max-tokens", "4", "--ignore-eos", "--compilation-cache-dir", "off"]
    command += ["--dtype", "float32", "--temperature", "0"]
    optimising = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # not as in conftest.py
    result = subprocess.run(command, env=optimising, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    output = json.loads(result.stdout)
    assert output["prompt"] == "Hello"
    with LLM("demo", **ENGINE) as llm:
        (expected,) = llm.generate(
            "Hello", SamplingParams(temperature=0, max_tokens=4, ignore_eos=True), use_tqdm=False
        )
    assert output["outputs"][0]["token_ids"] == expected.outputs[0].token_ids


@pytest.mark.slow
def test_a_measured_start():
    phases = run_child({"model": "demo", "max_num_seqs": 2, "max_num_batched_tokens": 32, "enforce_eager": True}, "off")
    assert {"startup", "import", "load", "compile", "ready"} <= set(phases)
    parts = {name: seconds for name, seconds in phases.items() if name not in ("startup", "load", "programs")}
    # Weights load beside the compilation; what else there is, the start of the interpreter, depends on the machine.
    assert phases["startup"] / 4 < sum(parts.values()) <= phases["startup"]
